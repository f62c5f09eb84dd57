"""Samples a second of the recovery loop against a plain transformers Trainer.

Run from the project's root:

    python experiments/recovery_speed/run.py

Writes results.csv (one row a timed run) and summary.csv (one row a comparison) beside itself,
and prints the summary as the table that README.md shows.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from autoprune.data.encoding import Batch, EncodedSet, collate, encode
from autoprune.models.arrays import state_arrays
from autoprune.models.loading import load_model
from autoprune.models.shape import spec_of
from autoprune.models.vision import head
from autoprune.pruning.plan import dense_plan
from autoprune.pruning.surgery import prune
from autoprune.recovery.loop import Recovery
from autoprune.recovery.losses import Answers, Needs, mix, needs_of
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.schedule import SampleOrder
from autoprune.recovery.scopes import open_scope
from autoprune.recovery.teacher import CachedTeacher, build_teacher
from autoprune.zoo.model import build_config, build_processor, embedded_path
from autoprune.zoo.splits import load_split

HERE = Path(__file__).parent
MIXES: dict[str, dict[str, float]] = {
    "sft": {"sft": 1.0},
    "sft+hidden": {"sft": 0.5, "hidden": 0.5},
    "sft+kl+hidden": {"sft": 0.4, "kl": 0.3, "hidden": 0.3},
}
WARM = 2  # updates before the clock starts


@dataclasses.dataclass(frozen=True)
class Timed:
    """One timed run: seconds between the updates WARM and last, and every update's loss."""

    samples_per_second: float
    losses: list[float]


def dense_model(path: Path) -> tuple[Any, str]:
    """Return the model at ``path``; random weights of the embedded shape if there is none."""
    if (path / "config.json").exists():
        return load_model(path).model, "trained weights"
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    return LlavaForConditionalGeneration(build_config()).eval(), "random weights"


def half_model(dense: Any) -> Any:
    """Return the dense model at half width: every second head and channel of each layer."""
    plan = dense_plan(spec_of(dense))
    layers = [
        dataclasses.replace(layer, heads=layer.heads[::2], channels=layer.channels[::2])
        for layer in plan.layers
    ]
    return prune(dense.config, state_arrays(dense), dataclasses.replace(plan, layers=tuple(layers)))


def run_ours(
    student: Any, samples: EncodedSet, teacher: CachedTeacher, recipe: RecoveryRecipe
) -> Timed:
    """Time our loop, as a trial runs it."""
    clock: list[float] = []
    recovery = Recovery(
        student, samples, teacher, recipe, on_step=lambda _: clock.append(time.perf_counter())
    )
    curve = recovery.run().curve
    return _timed(clock, recipe, [point.loss for point in curve])


def run_trainer(
    student: Any, dense: Any, samples: EncodedSet, rows: np.ndarray, recipe: RecoveryRecipe
) -> Timed:
    """Time transformers' Trainer on ``rows`` of ``samples``, with everything computed online.

    Teacher and student each run their own tower, backbone and head on every batch. Samples
    are tokenised and images preprocessed beforehand, as for our loop.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    losses: list[torch.Tensor] = []
    clock: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.append(time.perf_counter())

    class Distiller(Trainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
            loss = online_loss(model, dense, inputs["batch"], recipe)
            losses.append(loss.detach())
            return loss

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    open_scope(student, recipe)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=len(rows) // recipe.steps,
            num_train_epochs=1,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=recipe.clip,
            optim="adamw_torch_fused",
            use_cpu=True,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        Distiller(
            model=student,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda chosen: {"batch": collate(samples, chosen)},
            callbacks=[Clock()],
        ).train()
    return _timed(clock, recipe, [float(loss) for loss in losses])


def online_loss(student: Any, dense: Any, batch: Batch, recipe: RecoveryRecipe) -> torch.Tensor:
    """Return the recipe's loss per answer token, as a plain training script computes it."""
    needs = needs_of(recipe.weights)
    inputs = {
        "input_ids": batch.input_ids,
        "pixel_values": batch.pixel_values,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    at = batch.answer_index.rows, batch.answer_index.cols
    states = student.model(**inputs).last_hidden_state
    logits = head(student)(states)
    teacher_states = teacher_logits = None
    if needs & (Needs.TEACHER_HIDDEN | Needs.TEACHER_LOGITS):
        with torch.no_grad():
            teacher_states = dense.model(**inputs).last_hidden_state
            if needs & Needs.TEACHER_LOGITS:
                teacher_logits = head(dense)(teacher_states)[at]
            teacher_states = teacher_states[at]
    answers = Answers(
        hidden=states[at],
        targets=batch.answer_index.targets,
        logits=logits[at],
        teacher_hidden=teacher_states,
        teacher_logits=teacher_logits,
        temperature=recipe.temperature,
    )
    return mix(recipe.weights, answers)[0] / len(answers.targets)


def _timed(clock: list[float], recipe: RecoveryRecipe, losses: list[float]) -> Timed:
    samples = (recipe.steps - WARM) * recipe.batch_size
    return Timed(samples / (clock[-1] - clock[WARM - 1]), losses)


def measure(
    model: Path, repeats: int, updates: int, batch_size: int
) -> tuple[list[dict[str, Any]], str]:
    """Time every mix and every way, interleaved, ``repeats`` times."""
    dense, weights = dense_model(model)
    count = updates * batch_size
    processor = build_processor()
    packed = encode(load_split("train", count), processor)
    plain = encode(load_split("train", count), processor, packed=False)
    started = time.perf_counter()
    cache = build_teacher(dense, packed)
    built = time.perf_counter() - started
    print(f"{weights}; teacher of {count} samples in {built:.1f} s, {cache.nbytes / 1e6:.1f} MB")
    teacher = CachedTeacher(cache)
    half = half_model(dense)
    results = []
    for repeat in range(repeats):
        for name, mixture in MIXES.items():
            values = {"sft": 0.0, **mixture}
            recipe = RecoveryRecipe(
                **values,
                scope="full",
                learning_rate=5e-4,
                warmup=0.0,
                sample_passes=count,
                batch_size=batch_size,
                seed=repeat,
            )
            lengths = np.diff(packed.offsets)
            order = SampleOrder(np.arange(count), lengths, recipe.seed, batch_size)
            in_order = order.between(0, count)
            questions = [np.flatnonzero(plain.samples == sample) for sample in in_order]
            assert len({len(q) for q in questions}) == 1, "as many questions on every image"
            ways: dict[str, Callable[[Any], Timed]] = {
                "autoprune": lambda s, r=recipe: run_ours(s, packed, teacher, r),
                "trainer, packed": lambda s, r=recipe, o=in_order: run_trainer(
                    s, dense, packed, o, r
                ),
                "trainer, rows": lambda s, r=recipe, q=questions: run_trainer(
                    s, dense, plain, np.concatenate(q), r
                ),
            }
            timed = {}
            turn = np.random.default_rng(repeat).permutation(sorted(ways))
            for way in turn:
                timed[way] = ways[str(way)](copy.deepcopy(half))
            ours = timed["autoprune"].losses
            for way, run in timed.items():
                np.testing.assert_allclose(run.losses, ours, rtol=5e-3)
                speed = run.samples_per_second
                off = max(abs(a / b - 1) for a, b in zip(run.losses, ours, strict=True))
                results.append(
                    {
                        "repeat": repeat,
                        "loss": name,
                        "way": way,
                        "samples_per_second": round(speed, 2),
                        "largest_relative_loss_difference": f"{off:.1e}",
                    }
                )
                print(
                    f"{repeat} {name:14} {way:16} {speed:7.1f} samples/s, losses within {off:.1e}"
                )
    return results, weights


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean speeds and paired ratios with 95 % Student intervals, on logarithms."""
    table = []
    for name in MIXES:
        speeds = {
            way: np.array(
                [r["samples_per_second"] for r in results if (r["loss"], r["way"]) == (name, way)]
            )
            for way in ("autoprune", "trainer, packed", "trainer, rows")
        }
        for way, values in speeds.items():
            ratio = _interval(np.log(speeds["autoprune"] / values))
            speed = _interval(np.log(values))
            table.append(
                {
                    "loss": name,
                    "way": way,
                    "samples_per_second": f"{speed[0]:.1f}",
                    "speed_low": f"{speed[1]:.1f}",
                    "speed_high": f"{speed[2]:.1f}",
                    "autoprune_is_faster_by": f"{ratio[0]:.2f}",
                    "ratio_low": f"{ratio[1]:.2f}",
                    "ratio_high": f"{ratio[2]:.2f}",
                    "repeats": len(values),
                }
            )
    return table


def _interval(logs: np.ndarray) -> tuple[float, float, float]:
    mean = float(logs.mean())
    if len(logs) < 2:
        return math.exp(mean), math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=embedded_path())
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--updates", type=int, default=14, help=f"the first {WARM} are not timed")
    parser.add_argument("--batch-size", type=int, default=16, help="images, 8 questions each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    results, weights = measure(asked.model, asked.repeats, asked.updates, asked.batch_size)
    table = summarise(results)
    write(asked.out / "results.csv", results)
    write(asked.out / "summary.csv", table)
    print(f"\n{weights}, {asked.threads} thread, torch {torch.__version__}, {platform.machine()}\n")
    print("| loss | way | samples/s | AutoPrune is faster by |\n|---|---|---|---|")
    for row in table:
        print(
            f"| {row['loss']} | {row['way']} | {row['samples_per_second']} "
            f"({row['speed_low']}–{row['speed_high']}) | {row['autoprune_is_faster_by']} "
            f"({row['ratio_low']}–{row['ratio_high']}) |"
        )


if __name__ == "__main__":
    main()
