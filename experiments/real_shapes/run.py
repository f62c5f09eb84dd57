"""Time and memory of pruning at real sizes, and the latency of what comes out.

    python experiments/real_shapes/run.py --scale cpu                  # 12 minutes, 4 GB, 2 threads
    python experiments/real_shapes/run.py --device cuda --models llava-1.5-7b
    python experiments/real_shapes/run.py --check                      # the table and the targets

Weights are random. Every figure is written to a line of ``results-<scale>.jsonl`` as soon as it is
known; what stands there is not measured again, so a run that was cut short goes on. Needs torch,
transformers and AutoPrune's lower floors only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decode import Decoder, bytes_read
from setting import MODELS, SCALES, Scale, machine, plans_of, random_checkpoint, rows_of, shape
from table import check, table
from torch import nn

from autoprune.data.encoding import EncodedSet
from autoprune.models.arrays import from_arrays, state_arrays
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.memory import peak_memory
from autoprune.models.shape import model_class, spec_of
from autoprune.models.source import WeightSource, weight_source
from autoprune.pruning.footprint import rows_within
from autoprune.pruning.importance import measure
from autoprune.pruning.plan import PruningPlan
from autoprune.pruning.scores import Importance
from autoprune.pruning.surgery import prune
from autoprune.zoo.model import build_processor

HERE = Path(__file__).parent


class Log:
    """The file of results: one JSON object a line."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path = path
        self.deadline = deadline
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows = [json.loads(line) for line in lines]

    def has(self, model: str, step: str, case: str = "") -> bool:
        return any((r["model"], r["step"], r["case"]) == (model, step, case) for r in self.rows)

    def add(self, model: str, step: str, case: str = "", **values: Any) -> None:
        row = {"model": model, "step": step, "case": case, **values}
        self.rows.append(row)
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {k: v for k, v in values.items() if not isinstance(v, (list, dict))}
        print(f"{model:17} {step:11} {case:9}", json.dumps(shown), flush=True)

    def out_of_time(self) -> bool:
        return time.monotonic() > self.deadline


class Bench:
    """One model's measurements on one device."""

    def __init__(self, name: str, scale: Scale, device: torch.device, log: Log, work: Path) -> None:
        self.name = name
        self.scale = scale
        self.device = device
        self.log = log
        self.directory = work / name
        self.config = shape(name, scale)
        self.spec = spec_of(self.config)
        self._source: WeightSource | None = None
        self._base = 0
        if device.type == "cpu":  # what Python and its libraries take is no part of the work
            measure(from_arrays(*_warm()), rows_of(_warm()[0], 1, 16), [0])

    @property
    def source(self) -> WeightSource:
        """The weights in their files, made at the first call."""
        if self._source is None:
            if not (self.directory / "config.json").is_file():
                started = time.perf_counter()
                part = self.directory.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                random_checkpoint(self.config, part, self.device)
                part.rename(self.directory)
                self._free()
                self.log.add(
                    self.name, "write", seconds=time.perf_counter() - started, params=self.params
                )
            found = weight_source(self.directory, self.config, torch.bfloat16)
            assert found is not None
            self._source = found
        return self._source

    @property
    def params(self) -> int:
        return self.spec.total_params

    def run(self) -> None:
        """Measure what is not yet in the log, until time is up."""
        importance = self.importance()
        if importance is None:
            return
        for case, plan in plans_of(self.spec, importance).items():
            if self.log.out_of_time():
                return
            if not self.log.has(self.name, "latency", case):
                self.candidate(case, plan)
        if not self.log.has(self.name, "save", "any-30%") and not self.log.out_of_time():
            self.save(plans_of(self.spec, importance)["any-30%"])

    def importance(self) -> Importance | None:
        """Measure the pass; what it found is kept beside the weights for a run that goes on."""
        kept = self.directory.with_suffix(".npz")
        if self.log.has(self.name, "importance") and kept.is_file():
            return Importance.load(kept)
        self._rebase()
        with self._timed() as loading, peak_memory(self.device) as held:
            model = from_arrays(self.config, self.source, None, self.device)
        self.log.add(self.name, "load", seconds=loading[0], peak_gib=self._gib(held.bytes))
        most = rows_within(self.spec, 2, self.scale.tokens, 8)
        every = rows_of(self.config, self.scale.rows, self.scale.tokens)
        measure(model, every, [0], batch_size=1)  # warm: kernels are chosen and loaded
        with self._timed() as passing:
            found = measure(model, every, np.arange(len(every)), batch_size=most)
        weights = 2 * self.params
        self.log.add(
            self.name,
            "importance",
            seconds=passing[0],
            peak_gib=self._gib(found.peak_bytes),
            peak_of_weights=self._gib(found.peak_bytes) * 2**30 / weights,
            rows=len(every),
            tokens=self.scale.tokens,
            batch=most,
            params=self.params,
        )
        found.save(kept)
        del model
        self._free()
        if not self.log.has(self.name, "importance", "streamed"):
            self._streamed(every, most)
        return found

    def _streamed(self, every: EncodedSet, most: int) -> None:
        """Measure one batch with the layers' weights brought one at a time."""
        self._rebase()
        model = from_arrays(self.config, self.source, None, self.device, layers=False)
        rows = np.arange(min(most, len(every)))
        with self._timed() as passing:
            found = measure(model, every, rows, batch_size=most, weights=self.source)
        self.log.add(
            self.name,
            "importance",
            "streamed",
            seconds=passing[0],
            peak_gib=self._gib(found.peak_bytes),
            peak_of_weights=self._gib(found.peak_bytes) * 2**30 / (2 * self.params),
            rows=len(rows),
            tokens=self.scale.tokens,
            batch=most,
        )
        del model
        self._free()

    def candidate(self, case: str, plan: PruningPlan) -> None:
        """Build a candidate from the files and time what it takes to answer."""
        model = self._cut(case, plan)
        kept = self.spec.params_of(plan.shapes)
        decoder = Decoder(model, self.scale.tokens, self.scale.steps, self.device)
        self.log.add(
            self.name,
            "latency",
            case,
            decode_ms=decoder.decode(self.scale.repeats),
            prefill_ms=decoder.prefill(self.scale.fills),
            yardstick_ms=decoder.yardstick_ms,
            graphs=decoder.graphs,
            params=kept,
            fraction=kept / self.params,
            removed=1 - (kept - self.spec.outside_params) / self.spec.backbone_params,
            layers=len(plan.layers),
            bytes_read=bytes_read(self.spec, plan.shapes, decoder.room, 2),
        )
        del decoder
        if case == "thin" and not self.log.has(self.name, "latency", "empty"):
            model.get_decoder().layers = nn.ModuleList()
            decoder = Decoder(model, self.scale.tokens, self.scale.steps, self.device)
            self.log.add(
                self.name,
                "latency",
                "empty",
                decode_ms=decoder.decode(self.scale.repeats),
                prefill_ms=decoder.prefill(self.scale.fills),
                yardstick_ms=decoder.yardstick_ms,
                graphs=decoder.graphs,
                params=self.spec.outside_params,
                fraction=self.spec.outside_params / self.params,
                removed=1.0,
                layers=0,
                bytes_read=0,
            )
            del decoder
        del model
        self._free()

    def save(self, plan: PruningPlan) -> None:
        """Save a candidate and have a fresh process prove that it reloads."""
        model = self._cut("any-30%", plan)
        inputs = torch.randint(5, 4000, (2, 24), generator=torch.Generator().manual_seed(0))
        target = Path(tempfile.mkdtemp(dir=self.directory.parent))
        try:
            with self._timed() as saving:
                saved = save_checkpoint(
                    model,
                    build_processor(),  # any will do: the proof is given tokens
                    target / "out",
                    inputs={"input_ids": inputs, "attention_mask": torch.ones_like(inputs)},
                )
            self.log.add(
                self.name,
                "save",
                "any-30%",
                seconds=saving[0],
                reload_seconds=saved.proof.seconds,
                gib=2 * self.spec.params_of(plan.shapes) / 2**30,
                difference=saved.proof.max_abs_diff / saved.proof.scale,
            )
        finally:
            shutil.rmtree(target, ignore_errors=True)
        del model
        self._free()

    def _cut(self, case: str, plan: PruningPlan) -> Any:
        self.source  # noqa: B018 - written before the clock starts
        self._rebase()
        with self._timed() as cutting, peak_memory(self.device) as held:
            model = prune(self.config, self.source, plan, None, self.device, spec=self.spec)
        if not self.log.has(self.name, "surgery", case):
            weights = 2 * self.spec.params_of(plan.shapes)
            self.log.add(
                self.name,
                "surgery",
                case,
                seconds=cutting[0],
                peak_gib=self._gib(held.bytes),
                weights_gib=weights / 2**30,
            )
        return model

    def _rebase(self) -> None:
        """On a CPU, count from what the process holds now: libraries are no part of the work."""
        if self.device.type == "cpu":
            gc.collect()
            with peak_memory(self.device) as base:
                pass
            self._base = base.bytes

    def _gib(self, held: int) -> float:
        return (held - self._base) / 2**30

    @contextlib.contextmanager
    def _timed(self) -> Iterator[list[float]]:
        found = [0.0]
        self._wait()
        started = time.perf_counter()
        yield found
        self._wait()
        found[0] = time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _warm() -> tuple[Any, dict[str, np.ndarray]]:
    """Return a configuration of next to nothing and its weights."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return config, state_arrays(model_class(config)(config).to(torch.bfloat16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", choices=tuple(SCALES), help="full on a GPU, else cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--minutes", type=float, default=30.0, help="begin nothing after that")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU, without a GPU")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "real_shapes")
    parser.add_argument("--out", type=Path, default=HERE, help="where results are appended")
    parser.add_argument("--keep-weights", action="store_true", help="for a run that goes on")
    parser.add_argument("--check", action="store_true", help="print the table, and the targets")
    asked = parser.parse_args()
    name = asked.scale or ("full" if asked.device == "cuda" else "cpu")
    path = asked.out / f"results-{name}.jsonl"
    if not asked.check:
        scale, device = SCALES[name], torch.device(asked.device)
        if device.type == "cpu":
            torch.set_num_threads(asked.threads)
        asked.out.mkdir(parents=True, exist_ok=True)
        asked.work.mkdir(parents=True, exist_ok=True)
        log = Log(path, time.monotonic() + 60 * asked.minutes)
        log.add("-", "machine", time.strftime("%F %T"), scale=name, **machine(device))
        for model in asked.models or scale.models:
            measured(lambda model=model: Bench(model, scale, device, log, asked.work).run())
            if not asked.keep_weights:
                shutil.rmtree(asked.work / model, ignore_errors=True)
    rows = Log(path, 0).rows
    print(table(rows))
    for line in check(rows):
        print(line)


def measured(run: Callable[[], None]) -> None:
    """Run a model's measurements; what one lacks memory for does not keep the next from it."""
    try:
        run()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        print(f"stopped: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
