"""A model's card in words: a README in the form that the Hugging Face hub reads.

It is made of the card's JSON files alone, so that a checkpoint can be written in another format
where neither its search nor its dense model is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

DATA_LICENCE = (
    "digit questions made by AutoPrune (Apache-2.0) from the handwritten digits of scikit-learn "
    "(Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI, CC BY 4.0)"
)
PIPELINES = {True: "image-text-to-text", False: "text-generation"}
_LICENCES = (
    "afl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsl-1.0 c-uda cc cc-by-2.0 cc-by-3.0 "
    "cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 "
    "cc0-1.0 cdla-permissive-2.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-2.0 "
    "fair-noncommercial-research-license gemma gpl gpl-2.0 gpl-3.0 grok2-community h-research "
    "intel-research isc lgpl lgpl-3.0 llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "mit mpl-2.0 ms-pl openrail openrail++ osl-3.0 other unknown unlicense"
)
LICENCES = frozenset(_LICENCES.split())
"""Identifiers that the hub's card form knows; any other licence is ``other`` with its name."""
_FORMS = {"stock": "All layers have one shape.", "any": "The layers have different shapes."}


@dataclass(frozen=True)
class Loading:
    """How a model is loaded from the format that it stands in.

    Attributes:
        format: ``hf``, ``onnx``, ``gguf``.
        library: the hub's name of the library that reads it.
        needs: sentences before the code: what has to be installed.
        code: that loads it; ``directory`` stands for its folder.
        language: of the code.
        notes: sentences behind the code: what was proved, and what was not.
    """

    format: str
    library: str
    needs: str
    code: str
    language: str = "python"
    notes: tuple[str, ...] = ()


def readme(
    scores: Mapping[str, Any],
    recipe: Mapping[str, Any],
    search: Mapping[str, Any],
    loading: Loading,
) -> str:
    """Return the card: front matter, and what was cut, kept, how to load it and to remake it."""
    dense, settings = scores["dense"], search["settings"]
    name = f"{settings['name']}:{search['trial']}"
    versions = scores["versions"]
    lines = [
        "---",
        front_matter(scores, search, loading),
        "---",
        f"# {called(dense)}, cut to {scores['fraction']:.1%}",
        "",
        f"AutoPrune's candidate `{name}`: {scores['params']:,} of {dense['params']:,} parameters "
        f"({scores['fraction']:.1%} of the whole model; {scores['backbone_removed']:.1%} of the "
        "language backbone removed).",
        f"The search's budget was {', '.join(settings['budgets'])}.",
        *_origin(dense),
        "",
        *_stored(scores, loading),
        "",
        *kept_lines(scores),
        "",
        "## Load it",
        "",
        f"{_FORMS[scores['form']]} {loading.needs}",
        "",
        f"```{loading.language}",
        loading.code.rstrip(),
        "```",
        "",
        *(line for note in loading.notes for line in (note, "")),
        "## How it scores",
        "",
        f"On the questions of split `{scores['split']}`, which it was not trained on:",
        "",
        "| task | metric | this model | dense model |",
        "|---|---|---:|---:|",
        *(
            f"| {task} | {scores['metrics'].get(task, '')} | {score:.3f} | "
            f"{_figure(dense['scores'].get(task))} |"
            for task, score in scores["scores"].items()
        ),
        "",
        "## How it was made",
        "",
        "`plan.json` lists the heads and channels that are kept, layer by layer; `recipe.json` is "
        f"the training that followed: {scores['recovery']}, {recipe['data_fraction']:.0%} of the "
        f"recovery data, {recipe['sample_passes']:,} samples seen, seed {recipe['seed']}.",
        "",
        "Made again from the dense model and this folder, on any machine with AutoPrune "
        f"{versions.get('autoprune', '')}:",
        "",
        f"    autoprune export DIRECTORY --rebuild --format {loading.format} -o ANOTHER_DIRECTORY",
        "",
        "## Licences",
        "",
        f"- model: {dense['licence']}",
        f"- data: {_data(settings.get('data') or ()) or DATA_LICENCE}",
        "",
    ]
    return "\n".join(lines)


def _data(typed: Sequence[str]) -> str:
    """Return the sources of a user's data, files by their names: where they lay says nothing."""
    refs = [re.sub(r"=[\d.]+$", "", source) for source in typed]
    return ", ".join(PurePath(ref).name if PurePath(ref).is_absolute() else ref for ref in refs)


def called(dense: Mapping[str, Any]) -> str:
    """Return what to call the dense model: a path of some machine would lead nowhere."""
    name: str = dense["model"]
    return name if dense["hub"] else Path(name).expanduser().name or name


def _base(dense: Mapping[str, Any]) -> str | None:
    """Return the name on the hub of the dense model, or of what it was made from."""
    name: str | None = dense.get("base_model")  # earlier versions did not note it
    return name or (dense["model"] if dense["hub"] else None)


def _origin(dense: Mapping[str, Any]) -> list[str]:
    """Say where the dense model lay, if that was a directory."""
    from autoprune.zoo import EMBEDDED

    if dense["hub"] or dense["model"] == EMBEDDED:
        return []
    base = _base(dense)
    whence = f", whose files say that it comes from {base}" if base else ""
    return [f"The dense model was a local directory, `{called(dense)}`{whence}."]


def front_matter(scores: Mapping[str, Any], search: Mapping[str, Any], loading: Loading) -> str:
    """Return the card's metadata as YAML, in the form that the hub checks."""
    import yaml

    dense, settings = scores["dense"], search["settings"]
    pipeline = PIPELINES[bool(scores["vision"])]
    identifier = dense["licence"].split(" ")[0].lower()
    values: dict[str, Any] = {"license": identifier if identifier in LICENCES else "other"}
    if values["license"] == "other" and identifier != "other":
        values["license_name"] = dense["licence"]
    if base := _base(dense):
        values["base_model"] = base
    values |= {
        "library_name": loading.library,
        "pipeline_tag": pipeline,
        "tags": sorted({"autoprune", "pruned", loading.format} - {"hf"}),
        "model-index": [
            {
                "name": f"{settings['name']}-{search['trial']}",
                "results": _results(scores, pipeline),
            }
        ],
    }
    dumped: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return dumped.rstrip()


def _results(scores: Mapping[str, Any], pipeline: str) -> list[dict[str, Any]]:
    """Return the model index: a result a task, and what is retained over all of them."""
    found = [
        {
            "task": {"type": pipeline},
            "dataset": {"name": task, "type": task, "split": scores["split"]},
            "metrics": [{"type": scores["metrics"].get(task, "score"), "value": round(score, 4)}],
        }
        for task, score in scores["scores"].items()
    ]
    if (kept := _retention(scores)) is not None:
        label = "retention of the dense model's ability above chance"
        metrics = [{"type": "retention", "name": label, "value": round(kept["mean"], 4)}]
        for end in ("low", "high"):
            if kept.get(end) is not None:
                title = f"{label}, {end} end of its 95 % interval"
                metrics.append({"type": "retention", "name": title, "value": round(kept[end], 4)})
        every = {"name": "all tasks together", "type": "autoprune", "split": scores["split"]}
        found.append({"task": {"type": pipeline}, "dataset": every, "metrics": metrics})
    return found


def _retention(scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if scores["confirmed"] is not None:
        confirmed: Mapping[str, Any] = scores["confirmed"]["retention"]
        return confirmed
    return None if scores["retention"] is None else {"mean": scores["retention"]}


def _stored(scores: Mapping[str, Any], loading: Loading) -> list[str]:
    """Return what its weights take, and how those of the backbone are stored.

    That is said of the checkpoint: a file in another format may have another precision.
    """
    from autoprune.cost.bytes import format_bytes
    from autoprune.models.precision import PRECISIONS

    precision = PRECISIONS[scores["precision"]]
    own = "Its" if loading.format == "hf" else "As a Hugging Face checkpoint its"
    line = (
        f"{own} weights take {format_bytes(scores['bytes'])} ({scores['bytes']:,} bytes, "
        f"{scores['bytes_fraction']:.1%} of the dense model in {precision.dtype})"
    )
    if precision.storage is None:
        return [f"{line}, in {scores['precision']}."]
    lines = [
        f"{line}. The backbone's linear layers are quantised to {scores['precision']} "
        f"(weight-only, by torchao); all else is in {precision.dtype}."
    ]
    if left := scores["not_quantised"]:
        lines.append(
            f"{len(left)} of them have widths that do not suit the format and are left: "
            f"{', '.join(f'`{name}`' for name in left)}."
        )
    return lines


def kept_lines(scores: Mapping[str, Any]) -> list[str]:
    """Return what it retains: confirmed over seeds where that is known, else these weights."""
    from autoprune.tracking.records.point import FrontPoint

    ability = "of the dense model's ability above chance"
    lines = []
    if scores["confirmed"] is not None:
        point = FrontPoint.model_validate(scores["confirmed"])
        r = point.retention
        lines.append(
            f"Over {r.seeds} training{'s' * (r.seeds != 1)} it retains {r.mean:.3f} "
            f"[{r.low:.3f}, {r.high:.3f}] {ability} (95 %)."
        )
        if point.tie:
            lines.append(
                f"Among the search's trials it is {point.tie}: the 95 % interval of the "
                "difference holds zero."
            )
    if scores["retention"] is not None:
        what = f" {ability}" * (scores["confirmed"] is None)
        lines.append(
            f"These weights, of seed {scores['seed']}, retain {scores['retention']:.3f}{what}."
        )
    return lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
