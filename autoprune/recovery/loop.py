"""The recovery loop: short training that can be paused, saved and gone on with, exactly."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data.encoding import Batch, EncodedSet, collate
from autoprune.data.fractions import nested_fraction
from autoprune.errors import AutoPruneError
from autoprune.models.reading import answer_states
from autoprune.models.vision import head, let_dtypes_differ
from autoprune.recovery.losses import Answers, Needs, mix, needs_of
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.schedule import SampleOrder, learning_rate, make_optimizer
from autoprune.recovery.scopes import close_scope, open_scope
from autoprune.recovery.teacher import Teacher, online_features, precision

Model = Any  # a transformers model; its class is chosen by the checkpoint

# Updates between looks at the loss: a look waits for a GPU, and costs nothing on a CPU.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 16


class RecoveryDiverged(AutoPruneError):  # noqa: N818 - what happened, not what kind of error
    """The loss or the gradient left the finite numbers; the trial fails, the search goes on."""


@dataclass(frozen=True)
class LossPoint:
    """One update: what there is to log about it.

    Attributes:
        step: the update, counted from 1.
        samples: sample passes up to and with it.
        loss: the weighted mix, per answer token.
        losses: each loss of the mix, per answer token, unweighted.
        learning_rate: of this update.
        gradient_norm: before clipping.
    """

    step: int
    samples: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float


@dataclass(frozen=True)
class Progress:
    """How far a recovery is.

    Attributes:
        share: of the planned updates, in [0, 1]; 1 where none are planned.
        steps: updates done.
        samples: sample passes done.
        unique_samples: different samples among them.
        answer_tokens: answer tokens among them.
        loss: mean per answer token over the last tenth of the plan; NaN before the first.
        seconds: spent inside ``run``, over all pieces.
        curve: one point for every update.
    """

    share: float
    steps: int
    samples: int
    unique_samples: int
    answer_tokens: int
    loss: float
    seconds: float
    curve: tuple[LossPoint, ...] = field(repr=False, default=())


class Recovery:
    """Trains a pruned model by a recipe, in as many pieces as its caller likes.

    ``run(0.3)`` trains up to 30 % of the planned updates and returns; between pieces the model
    is in eval mode and can be scored. ``state_dict`` holds everything that the rest depends
    on: a recovery built the same way goes on from it, on a CPU bit for bit. ``finish`` merges
    what was added and hands the model back.

    Args:
        model: the pruned model; trained in place.
        encoded: the recovery samples, packed or not. Pixels may be left out where ``teacher``
            keeps features.
        teacher: where features and the dense model's states come from; None where the mix
            needs no teacher, features are then computed by the model's own frozen tower.
        recipe: what to do.
        device: where to do it.
        on_step: told every update once its numbers are known.

    Raises:
        AutoPruneError: for a mix that needs a teacher where there is none, or samples that
            have neither pixels nor kept features.
    """

    def __init__(
        self,
        model: Model,
        encoded: EncodedSet,
        teacher: Teacher | None,
        recipe: RecoveryRecipe,
        device: torch.device | str = "cpu",
        *,
        on_step: Callable[[LossPoint], None] | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.encoded = encoded
        self.teacher = teacher
        self.on_step = on_step
        self._needs = needs_of(recipe.weights)
        self._pixels = teacher is None or not teacher.keeps_features
        self._check_sources()
        self.pool = nested_fraction(encoded.ring, encoded.strata, recipe.data_fraction, recipe.seed)
        self.order = SampleOrder(
            self.pool, np.diff(encoded.offsets), recipe.seed, recipe.batch_size
        )
        self._requires_grad = {n: p.requires_grad for n, p in model.named_parameters()}
        self.model = model.to(self.device).eval()
        self.parameters = open_scope(model, recipe)
        self._dtypes = {name: p.dtype for name, p in self.parameters.items()}
        self._promote()
        self.optimizer = make_optimizer(self.parameters, recipe)
        self.steps = recipe.steps
        self.step = 0
        self._seconds = 0.0
        self._curve: list[LossPoint] = []
        self._unseen: list[tuple[float, float, Tensor]] = []
        self._generators = self._fresh_generators()
        self._finished = False

    @property
    def progress(self) -> Progress:
        """How far it is, with a point for every update."""
        samples = min(self.step * self.recipe.batch_size, self.recipe.sample_passes)
        recent = self._curve[-max(1, self.steps // 10) :]
        return Progress(
            share=self.step / self.steps if self.steps else 1.0,
            steps=self.step,
            samples=samples,
            unique_samples=min(samples, len(self.pool)),
            answer_tokens=int(self._counts(self.order.between(0, samples)).sum()),
            loss=sum(p.loss for p in recent) / len(recent) if recent else math.nan,
            seconds=self._seconds,
            curve=tuple(self._curve),
        )

    def run(self, until: float = 1.0) -> Progress:
        """Train up to the share ``until`` of the planned updates; nothing if already there.

        Raises:
            AutoPruneError: for a share outside [0, 1], or after :meth:`finish`.
            RecoveryDiverged: if the loss or the gradient is not finite.
        """
        if not 0 <= until <= 1:
            raise AutoPruneError(f"recovery share {until} is outside [0, 1]")
        if self._finished:
            raise AutoPruneError("this recovery is finished: build a new one to train on")
        started = time.perf_counter()
        with self._training():
            target = round(until * self.steps)
            while self.step < target:
                self._update()
                if len(self._unseen) >= LOOK_EVERY.get(self.device.type, LOOK_EVERY_ELSEWHERE):
                    self._look()
            self._look()
        self._seconds += time.perf_counter() - started
        return self.progress

    def finish(self) -> Model:
        """Merge LoRA, undo what training set on the model, and return it in eval mode."""
        if not self._finished:
            close_scope(self.model)
            for handle in self._bridges:
                handle.remove()
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self._requires_grad.get(name, True))
                parameter.grad = None
                if name in self._dtypes:
                    parameter.data = parameter.data.to(self._dtypes[name])
            self._finished = True
        model: Model = self.model.eval()
        return model

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that the rest of the training depends on."""
        return {
            "recipe": self.recipe.to_dict(),
            "step": self.step,
            "seconds": self._seconds,
            "curve": [asdict(point) for point in self._curve],
            "generators": {name: state.clone() for name, state in self._generators.items()},
            "parameters": {n: p.detach().cpu().clone() for n, p in self.parameters.items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            AutoPruneError: if it was taken under another recipe or of another model.
        """
        if state["recipe"] != self.recipe.to_dict():
            raise AutoPruneError("this recovery state is of another recipe: start from the prune")
        shapes = {name: tuple(value.shape) for name, value in state["parameters"].items()}
        if shapes != {name: tuple(p.shape) for name, p in self.parameters.items()}:
            raise AutoPruneError("this recovery state is of another plan: start from the prune")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.step = state["step"]
        self._seconds = state["seconds"]
        self._curve = [LossPoint(**point) for point in state["curve"]]
        self._generators = {name: value.clone() for name, value in state["generators"].items()}
        self._unseen = []

    def _update(self) -> None:
        """Make one update of the recipe's batch size, in ``accumulate`` forward passes."""
        recipe = self.recipe
        start = self.step * recipe.batch_size
        stop = min(start + recipe.batch_size, recipe.sample_passes)
        samples = self.order.between(start, stop)
        tokens = int(self._counts(samples).sum())
        rate = learning_rate(recipe, self.step)
        sums: list[Tensor] = []
        for part in self._parts(samples):
            batch = collate(self.encoded, part, self.device, pixels=self._pixels)
            with precision(self.device):
                total, losses = self._loss(batch)
            (total / tokens).backward()
            sums.append(torch.stack([total.detach(), *losses.values()]))
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        means = torch.stack(sums).sum(0) / tokens
        self._unseen.append((rate, stop, torch.cat([means, norm.reshape(1)])))

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mix and its parts, summed over the batch's answer tokens."""
        features = self._features(batch)
        hidden = answer_states(self.model, batch, features)
        logits = teacher_hidden = teacher_logits = None
        if self._needs & Needs.LOGITS:
            logits = head(self.model)(hidden)
        if self._needs & (Needs.TEACHER_HIDDEN | Needs.TEACHER_LOGITS):
            assert self.teacher is not None
            with torch.no_grad():
                teacher_hidden = self.teacher.hidden(batch, features)
                if self._needs & Needs.TEACHER_LOGITS:
                    teacher_logits = self.teacher.logits(teacher_hidden)
        return mix(
            self.recipe.weights,
            Answers(
                hidden=hidden,
                targets=batch.answer_index.targets,
                logits=logits,
                teacher_hidden=teacher_hidden,
                teacher_logits=teacher_logits,
                temperature=self.recipe.temperature,
            ),
        )

    def _features(self, batch: Batch) -> Tensor | None:
        features = None if self.teacher is None else self.teacher.features(batch)
        return online_features(self.model, batch) if features is None else features

    def _parts(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Split an update; samples of like length go together, to pad less."""
        if self.recipe.accumulate == 1:
            yield samples
            return
        lengths = np.diff(self.encoded.offsets)[samples]
        ordered = samples[np.argsort(lengths, kind="stable")]
        yield from (p for p in np.array_split(ordered, self.recipe.accumulate) if len(p))

    def _counts(self, samples: np.ndarray) -> np.ndarray:
        counts: np.ndarray = np.diff(self.encoded.answer_offsets)[samples]
        return counts

    def _look(self) -> None:
        """Read the numbers of the updates since the last look, and judge them."""
        if not self._unseen:
            return
        unseen, self._unseen = self._unseen, []
        first = self.step - len(unseen)
        values = torch.stack([numbers for _, _, numbers in unseen]).tolist()
        for step, ((rate, samples, _), row) in enumerate(
            zip(unseen, values, strict=True), start=first + 1
        ):
            loss, *losses, norm = row
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise RecoveryDiverged(
                    f"recovery diverged at update {step} of {self.steps} (loss {loss}, gradient "
                    f"norm {norm}, learning rate {rate:.3g}): lower the learning rate"
                )
            named = dict(zip(self.recipe.weights, losses, strict=True))
            point = LossPoint(step, int(samples), loss, named, rate, norm)
            self._curve.append(point)
            if self.on_step is not None:
                self.on_step(point)

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """Train mode for what is trained, this recovery's own random numbers, and back."""
        decoder = self.model.get_decoder()
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self._generators["cpu"])
            if cuda:
                torch.cuda.set_rng_state(self._generators["cuda"], self.device)
            decoder.train()
            if self.recipe.checkpointing:
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
            try:
                yield
            finally:
                if self.recipe.checkpointing:
                    self.model.gradient_checkpointing_disable()
                self.model.eval()
                self.optimizer.zero_grad(set_to_none=True)
                self._generators["cpu"] = torch.get_rng_state()
                if cuda:
                    self._generators["cuda"] = torch.cuda.get_rng_state(self.device)

    def _fresh_generators(self) -> dict[str, Tensor]:
        states = {"cpu": torch.Generator().manual_seed(self.recipe.seed).get_state()}
        if self.device.type == "cuda":
            generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
            states["cuda"] = generator.get_state()
        return states

    def _promote(self) -> None:
        """Hold trained parameters in float32: updates below bfloat16's step would be lost."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self._bridges = let_dtypes_differ(self.model)
        embedding = self.model.get_input_embeddings().weight
        if not (self.encoded.whole and embedding.requires_grad):
            return
        # Some models bring image features to the dtype of their first parameter, the tower's,
        # where they meet the embeddings: so that one is held alike.
        for name, parameter in self.model.named_parameters():
            self._dtypes.setdefault(name, parameter.dtype)
            parameter.data = parameter.data.float()

    def _check_sources(self) -> None:
        needs_teacher = self._needs & (Needs.TEACHER_HIDDEN | Needs.TEACHER_LOGITS)
        if self.recipe.scope != "none" and needs_teacher and self.teacher is None:
            raise AutoPruneError(
                f"recovery by {'+'.join(self.recipe.weights)} needs a teacher: give one, or use sft"
            )
        if self._pixels and self.encoded.has_images and not self.encoded.has_pixels:
            raise AutoPruneError(
                "the samples have neither pixels nor kept features: keep one of them"
            )
