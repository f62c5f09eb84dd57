"""The results as a table, the forecast of latency, and the targets."""

from __future__ import annotations

import math
import statistics
from typing import Any

PAPER = {
    "width": {0.15: 98 / 105, 0.30: 84 / 105, 0.45: 65 / 105, 0.60: 55 / 105},
    "layer": {0.15: 95 / 105, 0.30: 81 / 105, 0.45: 59 / 105, 0.60: 49 / 105},
}
"""Latency that remains of LLaVA-1.5-7B in the study (arXiv 2604.24380), where dense is 105 ms."""

SECONDS, WITHIN, HEADROOM = 60.0, 0.10, 1.3
_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 12: 2.20}


def latencies(rows: list[dict[str, Any]], model: str) -> dict[str, dict[str, Any]]:
    """Return a model's latency rows by case.

    Where a yardstick was timed beside it (see ``decode``), each decode time is that of a machine on
    which the yardstick takes its median.
    """
    own = [r for r in rows if r["model"] == model and r["step"] == "latency"]
    marks = [mark for row in own for mark in row["yardstick_ms"]]
    usual = statistics.median(marks) if marks else 1.0
    found = {}
    for row in own:
        times = row["decode_ms"]
        if row["yardstick_ms"]:
            pairs = zip(times, row["yardstick_ms"], strict=True)
            times = [time * usual / mark for time, mark in pairs]
        found[row["case"]] = {**row, "decode_ms": times}
    return found


def middle(values: list[float]) -> float:
    """Return the median: what else a machine does now and then is no part of a latency."""
    return statistics.median(values)


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half of the 95 % Student interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return mean, _T.get(len(values), 2.0) * spread


def predicted(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the decode latency of each case in ms: the fixed part, and the bytes that are read.

    The fixed part is measured: a model without layers, and what a layer costs that holds next to
    nothing. The milliseconds a byte are those of the dense model. So of the cases themselves only
    their numbers of layers and bytes are known here.
    """
    if not {"dense", "thin", "empty"} <= set(found):
        return {}
    time = {case: middle(row["decode_ms"]) for case, row in found.items()}
    dense, thin = found["dense"], found["thin"]
    a_byte = (time["dense"] - time["thin"]) / (dense["bytes_read"] - thin["bytes_read"])
    a_layer = (time["thin"] - time["empty"] - a_byte * thin["bytes_read"]) / thin["layers"]
    return {
        case: time["empty"] + a_layer * row["layers"] + a_byte * row["bytes_read"]
        for case, row in found.items()
    }


def models_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the models that have rows, in order."""
    return list(dict.fromkeys(r["model"] for r in rows if r["step"] != "machine"))


def table(rows: list[dict[str, Any]]) -> str:
    """Return all results as Markdown."""
    lines: list[str] = []
    for model in models_of(rows):
        lines += ["", f"**{model}**", ""]
        lines += _work(rows, model)
        found = latencies(rows, model)
        if "dense" not in found:
            continue
        ahead = predicted(found)
        dense = middle(found["dense"]["decode_ms"])
        whole = middle(found["dense"]["prefill_ms"])
        lines += [
            "",
            "| case | backbone removed | parameters that remain | decode, ms | prefill, ms | "
            "decode that remains | prefill that remains | decode/forecast | study |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for case, row in found.items():
            if case in ("thin", "empty"):
                continue
            step, around = interval(row["decode_ms"])
            fill, about = interval(row["prefill_ms"])
            typical = middle(row["decode_ms"])
            ratio = f"{typical / ahead[case]:.2f}" if case in ahead else "–"
            lines.append(
                f"| {case} | {row['removed']:.1%} | {row['fraction']:.1%} | "
                f"{step:.2f} ± {around:.2f} | {fill:.1f} ± {about:.1f} | {typical / dense:.1%} | "
                f"{middle(row['prefill_ms']) / whole:.1%} | {ratio} | "
                f"{_study(model, case)} |"
            )
    return "\n".join(lines)


def _study(model: str, case: str) -> str:
    kind, _, removed = case.partition("-")
    if model != "llava-1.5-7b" or kind not in PAPER:
        return "–"
    return f"{PAPER[kind][float(removed.rstrip('%')) / 100]:.1%}"


def _work(rows: list[dict[str, Any]], model: str) -> list[str]:
    own = [r for r in rows if r["model"] == model]
    lines = ["| work | seconds | peak GiB | |", "|---|---|---|---|"]
    for row in own:
        if row["step"] == "importance":
            said = f"{row['rows']} rows of {row['tokens']} tokens, {row['batch']} a time; peak is "
            said += f"{row['peak_of_weights']:.2f} of the weights"
            name = f"importance{', layers brought one at a time' if row['case'] else ''}"
            lines.append(f"| {name} | {row['seconds']:.1f} | {row['peak_gib']:.2f} | {said} |")
    cuts = [r for r in own if r["step"] == "surgery" and r["case"] not in ("dense", "thin")]
    if cuts:
        seconds = [r["seconds"] for r in cuts]
        over = max(r["peak_gib"] - r["weights_gib"] for r in cuts)
        span = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} … {max(seconds):.1f})"
        most = max(r["peak_gib"] for r in cuts)
        said = f"{len(cuts)} candidates; at most {over:.2f} GiB above what is kept"
        lines.append(f"| surgery | {span} | {most:.2f} | {said} |")
    for row in own:
        if row["step"] == "save":
            lines.append(
                f"| save, and proven reload | {row['seconds']:.1f} | – | {row['gib']:.1f} GiB; the "
                f"fresh process took {row['reload_seconds']:.1f} s of it, logits differ by "
                f"{row['difference']:.1e} |"
            )
    return lines


def check(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each target that the results speak to, and whether it is met."""
    said = []
    device = next((r for r in reversed(rows) if r["step"] == "machine"), {"gpu": None})
    for model in models_of(rows):
        own = [r for r in rows if r["model"] == model]
        passes = [r for r in own if r["step"] == "importance" and not r["case"]]
        cuts = [r["seconds"] for r in own if r["step"] == "surgery" and r["case"] == "any-30%"]
        if passes and cuts:
            seconds = passes[-1]["seconds"] + cuts[-1]
            if model.endswith("7b") and device["gpu"]:
                said.append(
                    _line(
                        seconds < SECONDS,
                        f"{model}: importance and surgery in {seconds:.0f} s, under {SECONDS:.0f}",
                    )
                )
            # On a CPU the peak is the process's, Python and its libraries included.
            if device["gpu"]:
                share = passes[-1]["peak_of_weights"]
                said.append(
                    _line(
                        share < HEADROOM,
                        f"{model}: importance held {share:.2f} of the weights, under {HEADROOM}",
                    )
                )
        found = latencies(rows, model)
        ahead = predicted(found)
        for kind in ("layer", "width", "any"):
            off = [
                middle(found[case]["decode_ms"]) / ahead[case] - 1
                for case in found
                if case.startswith(kind) and case in ahead
            ]
            if off:
                worst = max(off, key=abs)
                said.append(
                    _line(
                        abs(worst) <= WITHIN,
                        f"{model}: decode latency of {kind} is at most {worst:+.0%} off the "
                        f"forecast, within {WITHIN:.0%}",
                    )
                )
    return said


def _line(met: bool, text: str) -> str:
    return f"{'met' if met else 'NOT MET'}: {text}"
