"""What apply takes, and the card it writes: read back as it was, refused where it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from support.confirmed import finished_search
from support.decoding import CONTEXT
from support.user_data import llava

from autoprune.deploy.apply import apply_kept, rebuild
from autoprune.deploy.card import Dense, Facts, card_files, read_card
from autoprune.deploy.readme import Loading
from autoprune.deploy.source import from_checkpoint, from_search, is_checkpoint, plain_retention
from autoprune.errors import AutoPruneError
from autoprune.evaluation.retention import retention
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.models.shape import BackboneSpec, spec_of
from autoprune.pipeline.candidate import Candidate
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.search.knobs.space import load_space
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.search.trial.bench import TrialWork
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.trial import TrialRecord
from autoprune.zoo import build_config

LOADING = Loading("hf", "transformers", "Torch is enough.", "from transformers import X\n")
DENSE_SCORES = {"digits_read": 0.98, "digits_sum": 0.8}


@pytest.fixture(scope="module")
def spec() -> BackboneSpec:
    return spec_of(build_config())


@pytest.fixture
def facts(spec: BackboneSpec, tmp_path: Path) -> Facts:
    layers = tuple(
        LayerPlan(i, tuple(range(shape.heads)), tuple(range(40)))
        for i, shape in enumerate(spec.layers)
        if i != 3
    )
    shape = spec.layers[0]
    plan = PruningPlan(
        spec.model_type,
        spec.identity,
        len(spec.layers),
        shape.heads // shape.kv_heads,
        layers,
    )
    recipe = RecoveryRecipe(sft=1.0, hidden=1.0, seed=5, data_fraction=0.05)
    point = FrontPoint(
        trial=7,
        params=1,
        fraction=0.5,
        axis="hybrid",
        recovery=recipe.name,
        data_fraction=0.05,
        backbone_removed=0.6,
        retention=Retention(mean=0.9, low=0.88, high=0.92, seeds=3),
    )
    return Facts(
        settings=make_settings(
            {"name": "demo", "home": tmp_path / "home", "tracking_uri": "http://secret@host"}
        ),
        trial=7,
        candidate=Candidate(plan, recipe),
        dense=Dense("embedded", "abc", "Apache-2.0", spec, DENSE_SCORES),
        split="confirm",
        scores={"digits_read": 0.95, "digits_sum": 0.6},
        retention=0.91,
        retention_raw=0.93,
        point=point,
        versions={"autoprune": "0.1.0"},
        metrics=dict.fromkeys(DENSE_SCORES, "exact_match"),
    )


def write_card(facts: Facts, folder: Path) -> Path:
    folder.mkdir()
    for name, text in card_files(facts, LOADING).items():
        (folder / name).write_text(text)
    return folder


def test_a_card_reads_back_as_it_was(facts: Facts, tmp_path: Path) -> None:
    folder = write_card(facts, tmp_path / "made")
    assert is_checkpoint(folder)
    source = from_checkpoint(folder, tmp_path / "elsewhere")
    assert source.candidate == facts.candidate
    assert source.point == facts.point
    assert source.kept is not None
    assert (source.kept.scores, source.kept.retention) == (facts.scores, facts.retention)
    assert source.kept.metrics == facts.metrics
    assert source.dense_identity == "abc"
    assert source.settings.home == tmp_path / "elsewhere"
    assert source.settings.fixed() == facts.settings.fixed()


def test_a_card_says_what_a_reader_needs(facts: Facts, tmp_path: Path) -> None:
    files = card_files(facts, LOADING)
    card = files["README.md"]
    for words in (
        "license: apache-2.0",
        "library_name: transformers",
        "Torch is enough.",
        "from transformers import X",
        "0.900 [0.880, 0.920]",
        "| digits_sum | exact_match | 0.600 | 0.800 |",
        "autoprune export DIRECTORY --rebuild --format hf",
        "seed 5",
        "CC BY 4.0",
    ):
        assert words in card
    alone = card_files(replace(facts, point=None), LOADING)["README.md"]
    assert f"retain {facts.retention:.3f} of the dense model's ability" in alone
    everything = "".join(files.values())
    assert "secret" not in everything  # what is this machine's alone stays here
    assert str(tmp_path) not in everything


def test_a_card_names_the_data_that_was_recovered_on(facts: Facts, tmp_path: Path) -> None:
    own = llava(tmp_path / "a=b")
    asked = {"data": (str(own), f"{own}=2.5", "someone/instructions"), "data_identity": "known"}
    settings = facts.settings.model_copy(update=asked)
    card = card_files(replace(facts, settings=settings), LOADING)["README.md"]
    assert "- data: mine.json, mine.json, someone/instructions\n" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    ("licence", "hub", "expected"),
    [
        ("llama2", True, {"license": "llama2", "base_model": "llava-hf/llava-1.5-7b-hf"}),
        ("My own terms", False, {"license": "other", "license_name": "My own terms"}),
        ("other (none is stated)", False, {"license": "other"}),
    ],
)
def test_a_card_has_the_form_of_the_hub(
    facts: Facts, licence: str, hub: bool, expected: dict[str, str]
) -> None:
    # Cards of earlier versions note no base, and those of hub models have themselves.
    dense = replace(facts.dense, ref="llava-hf/llava-1.5-7b-hf", licence=licence, hub=hub)
    card = ModelCard(card_files(replace(facts, dense=dense), LOADING)["README.md"])
    values = card.data.to_dict()
    assert {name: values.get(name) for name in expected} == expected
    assert ("base_model" in values) is hub
    assert (values["library_name"], values["pipeline_tag"]) == (
        "transformers",
        "image-text-to-text",
    )
    results = card.data.eval_results
    by_task = {r.dataset_name: r.metric_value for r in results if r.metric_type == "exact_match"}
    assert by_task == facts.scores
    kept = [r.metric_value for r in results if r.metric_type == "retention"]
    assert kept == [0.9, 0.88, 0.92]  # the mean over seeds, and its interval


# where the dense model lay, what it was made from, and what the card calls it and its base
LOCAL: list[tuple[str, str | None, str, str]] = [
    ("/home/me/my-vlm", None, "# my-vlm, cut to", "was a local directory, `my-vlm`."),
    ("my-vlm/", None, "# my-vlm, cut to", "was a local directory, `my-vlm`."),
    (
        "../my-vlm",
        "llava-hf/llava-1.5-7b-hf",
        "# my-vlm, cut to",
        "`my-vlm`, whose files say that it comes from llava-hf/llava-1.5-7b-hf.",
    ),
]


@pytest.mark.parametrize(("ref", "base", "title", "line"), LOCAL)
def test_a_card_of_a_local_model_names_what_others_can_find(
    facts: Facts, ref: str, base: str | None, title: str, line: str
) -> None:
    dense = replace(facts.dense, ref=ref, base=base)
    text = card_files(replace(facts, dense=dense), LOADING)["README.md"]
    assert title in text
    assert line in text
    data = Path("/home/me/talks.json")
    settings = make_settings({"data": (f"{data}=2", "org/name"), "data_identity": "d"})
    trained = card_files(replace(facts, dense=dense, settings=settings), LOADING)["README.md"]
    assert "- data: talks.json, org/name" in trained
    assert "/home/me" not in trained
    assert "/home/me" not in text
    assert ModelCard(text).data.to_dict().get("base_model") == base
    ours = card_files(facts, LOADING)["README.md"]
    assert "# embedded, cut to" in ours
    assert "local directory" not in ours


def test_a_card_of_an_earlier_version_is_refused(facts: Facts, tmp_path: Path) -> None:
    folder = write_card(facts, tmp_path / "made")
    assert read_card(folder).scores["form"] == "stock"
    scores = json.loads((folder / "scores.json").read_text())
    del scores["form"]
    (folder / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(AutoPruneError, match="earlier version, whose card says too little"):
        read_card(folder)


def test_a_card_says_how_its_weights_are_stored(facts: Facts) -> None:
    plain = json.loads(card_files(facts, LOADING)["scores.json"])
    assert (plain["bytes"], plain["precision"]) == (4 * plain["params"], "float32")
    candidate = replace(facts.candidate, precision="int4")
    small = replace(facts, candidate=candidate, left=("layers.0.mlp.down_proj",))
    files = card_files(small, LOADING)
    scores = json.loads(files["scores.json"])
    assert scores["bytes"] < plain["bytes"] / 2
    assert scores["bytes_fraction"] < plain["bytes_fraction"] == plain["fraction"]
    assert scores["not_quantised"] == ["layers.0.mlp.down_proj"]
    for words in (
        f"({scores['bytes']:,} bytes, {scores['bytes_fraction']:.1%} of the dense model",
        "quantised to int4",
        "1 of them have widths that do not suit the format",
    ):
        assert words in files["README.md"]


def test_a_card_of_another_format_says_whose_bytes_it_tells(facts: Facts) -> None:
    graphs = replace(LOADING, format="onnx")
    assert "\nIts weights take" in card_files(facts, LOADING)["README.md"]
    assert (
        "\nAs a Hugging Face checkpoint its weights take" in card_files(facts, graphs)["README.md"]
    )


def test_a_broken_card_is_refused(facts: Facts, tmp_path: Path) -> None:
    folder = write_card(facts, tmp_path / "made")
    (folder / "scores.json").write_text('{"split": "confirm"')
    with pytest.raises(AutoPruneError, match=r"made.scores.json cannot be read"):
        from_checkpoint(folder, tmp_path)
    (folder / "scores.json").unlink()
    assert not is_checkpoint(folder)


def started(home: Path) -> SearchStore:
    store = SearchStore(search_dir(home, "demo"))
    store.open(make_settings({"name": "demo", "home": home}))
    for record in (
        TrialRecord(trial=0, state="complete", params=9, fraction=0.5, retention=0.8),
        TrialRecord(trial=1, state="failed", reason="out of memory"),
    ):
        store.write_record(record)
    return store


def test_the_metric_is_the_one_that_the_score_was_read_from(tmp_path: Path) -> None:
    # POPE's own metric in the table is another one.
    store = finished_search(tmp_path, "own", {0.5: 0.9}, tasks={"pope": 0.5})
    kept = store.directory / "confirm"
    for path in kept.glob("0000-*.json"):
        path.write_text(path.read_text().replace("exact_match", "pope_f1_score"))
    source = from_search(store, 0)
    assert source.kept is not None
    assert source.kept.split == "confirm"
    assert source.kept.metrics == {"pope": "pope_f1_score"}


def test_trials_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    store = started(tmp_path)
    with pytest.raises(AutoPruneError, match="no trial 5: it has trials 0 to 1"):
        from_search(store, 5)
    with pytest.raises(AutoPruneError, match=r"failed before it had a model \(out of memory\)"):
        from_search(store, 1)
    source = from_search(store, 0)
    assert source.kept is not None
    assert source.kept.split == "search"
    with pytest.raises(AutoPruneError, match="no weights of demo:0 were kept: --rebuild"):
        apply_kept(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rebuild_that_is_not_the_recorded_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = started(tmp_path)
    knobs = load_space("hybrid").complete({"size": 0.5, "axis": "width"})
    store.write_record(
        TrialRecord(trial=2, state="complete", params=9, knobs=knobs, plan="recorded")
    )

    class Problem:
        def prepare(self, *anything: object) -> object:
            work = TrialWork(b"", CONTEXT, load_space("hybrid"))
            return SimpleNamespace(assets=None, work=work)

    monkeypatch.setattr("autoprune.search.problem.PipelineProblem", Problem)
    monkeypatch.setattr("autoprune.pipeline.run.Bench", lambda assets, resources: None)
    with pytest.raises(AutoPruneError, match="demo:2 cannot be built again: its knobs"):
        rebuild(from_search(store, 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_retention_from_the_dense_scores_alone_is_the_same() -> None:
    docs = np.array([f"{i}/0" for i in range(4)])

    def task(name: str, score: float) -> TaskScore:
        return TaskScore(name, "exact_match", 0.25, score, docs, docs, None)

    dense = TaskScores((task("a", 0.75), task("b", 1.0), task("c", 0.3)))
    small = TaskScores((task("a", 0.5), task("b", 0.75), task("c", 0.3)))
    found = retention(small, dense)
    assert plain_retention(small, dense.by_task) == (found.value, found.raw)
    assert plain_retention(small, {"a": 1.0}) == (None, None)
