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
import copy
import gc
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decode import Decoder, bytes_read
from table import check, table
from torch import nn

from autoprune.data.encoding import EncodedSet
from autoprune.errors import AutoPruneError
from autoprune.models.arrays import from_arrays, state_arrays
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.loading import quiet
from autoprune.models.memory import peak_memory
from autoprune.models.shape import BackboneSpec, model_class, spec_of
from autoprune.models.source import WeightSource, weight_source
from autoprune.pruning.allocation import allocate
from autoprune.pruning.footprint import rows_within
from autoprune.pruning.importance import measure
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import LayerPlan, PruningPlan, dense_plan, heads_of_groups
from autoprune.pruning.scores import Importance, scores
from autoprune.pruning.surgery import prune
from autoprune.zoo.model import build_processor

HERE = Path(__file__).parent
MODELS = ("llava-1.5-7b", "qwen2.5-vl-7b", "mini-internvl-4b", "bunny-3b")
MULTIPLE = 64
REMOVED = (0.15, 0.30, 0.45, 0.60)
CLASSES = {
    "layer": Allocation(axis="depth"),
    "width": Allocation(axis="width", temperature=0),
    "any": Allocation(axis="hybrid", depth_share=0.3, temperature=0.5),
}


@dataclass(frozen=True)
class Scale:
    """How large and how often things are measured.

    Attributes:
        layers: of each model's backbone; None leaves them all.
        models: that are measured by default.
        tokens: positions before the first generated token: 576 of an image and 64 of text.
        rows: calibration rows of the importance pass.
        steps: decode steps that are timed together.
        repeats: of the time of a decode step.
        fills: of that of a prefill.
        trim: shrink what pruning leaves alone: vision tower and vocabulary.
    """

    layers: dict[str, int] | None
    models: tuple[str, ...]
    tokens: int
    rows: int
    steps: int
    repeats: int
    fills: int
    trim: bool


SCALES = {
    "full": Scale(None, MODELS, 640, 128, 64, 7, 7, False),
    "cpu": Scale(
        {"llava-1.5-7b": 6, "qwen2.5-vl-7b": 4, "mini-internvl-4b": 6, "bunny-3b": 6},
        MODELS,
        128,
        2,
        2,
        6,
        2,
        True,
    ),
}


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


def shape(name: str, scale: Scale) -> Any:
    """Return a model's configuration at a scale."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(HERE / "shapes" / name)
    text, vision = config.text_config, config.vision_config
    if scale.layers is not None:
        text.num_hidden_layers = scale.layers[name]
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: scale.layers[name]]
    if scale.trim:
        text.vocab_size = 4096
        text.pad_token_id = text.bos_token_id = text.eos_token_id = 0
        config.image_token_id = 4095
        for count in ("num_hidden_layers", "depth"):
            if hasattr(vision, count):
                setattr(vision, count, 2)
        if hasattr(vision, "fullatt_block_indexes"):
            vision.fullatt_block_indexes = [1]
        if hasattr(config, "video_token_id"):
            config.video_token_id = 4094
            config.vision_start_token_id, config.vision_end_token_id = 4092, 4093
    return config


def random_checkpoint(config: Any, directory: Path, device: torch.device) -> None:
    """Save a model of random weights in bfloat16; initialised on ``device``, where that is fast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            model = model_class(config)(copy.deepcopy(config))
    finally:
        torch.set_default_dtype(before)
    with quiet():
        model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="4GB")


def rows_of(config: Any, count: int, tokens: int) -> EncodedSet:
    """Make calibration rows of random words, the last eight of each the answer."""
    answers = 8
    rng = np.random.default_rng(0)
    ids = rng.integers(5, config.get_text_config().vocab_size // 2, count * tokens).astype(np.int32)
    asked = np.tile(np.arange(tokens) >= tokens - answers, count)
    return EncodedSet(
        input_ids=ids,
        labels=np.where(asked, ids, -100).astype(np.int32),
        segments=np.ones(count * tokens, np.int32),
        positions=np.tile(np.arange(tokens, dtype=np.int32), count),
        offsets=np.arange(count + 1) * tokens,
        answer_offsets=np.arange(count + 1) * answers,
        samples=np.arange(count),
        image_rows=np.zeros((count, 2), np.int64),
        pixel_values=None,
        ring=np.arange(count) / count,
        strata=np.zeros(count, np.int64),
        packed=False,
        image_token_id=-1,
        pad_token_id=0,
    )


def thin_plan(spec: BackboneSpec) -> PruningPlan:
    """Keep every layer and next to nothing in it: what a layer costs beside its bytes."""
    layers = tuple(
        LayerPlan(index, heads_of_groups((0,), spec.q_per_group), tuple(range(MULTIPLE)))
        for index in range(len(spec.layers))
    )
    return PruningPlan(spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, layers)


def plans_of(spec: BackboneSpec, importance: Importance) -> dict[str, PruningPlan]:
    """Return every plan that is measured, by case; the anchors of the forecast first."""
    plans = {"dense": dense_plan(spec), "thin": thin_plan(spec)}
    unit_scores = scores(importance)
    for removed in REMOVED:
        target = round(spec.total_params - removed * spec.backbone_params)
        for kind, allocation in CLASSES.items():
            # A few layers, as on a CPU, cannot give every size up.
            with contextlib.suppress(AutoPruneError):
                plan = allocate(spec, unit_scores, allocation, target, MULTIPLE)
                plans[f"{kind}-{removed:.0%}"] = plan
    return plans


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


def machine(device: torch.device) -> dict[str, Any]:
    """Say what measured."""
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    threads = torch.get_num_threads()
    return {"gpu": gpu, "cpu": cpu, "threads": threads, "torch": torch.__version__}


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
