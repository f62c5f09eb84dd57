"""AutoPrune as a model of lmms-eval: ``lmms-eval --model autoprune --model_args pretrained=DIR``.

It is the bridge from the other side: lmms-eval loads the tasks, and any checkpoint that AutoPrune
reads (dense, stock, or with its loading code) answers, by the engine that ``autoprune evaluate``
has, too. What goes wrong is raised, and never scored. lmms-eval finds it by the entry point
``lmms_eval.models`` (its ``models/registry_v2.py``).
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from autoprune.errors import AutoPruneError
from autoprune.evaluation.external import opened
from autoprune.evaluation.generation import GenericEngine, Question
from autoprune.evaluation.likelihood import Given, losses
from autoprune.evaluation.tasks import answer_tokens
from autoprune.models.loading import inspect_model, load_model
from autoprune.pipeline.prepare import NAMED, working_precision

if TYPE_CHECKING:
    from autoprune.models.loading import Loaded


class AutoPruneModel(lmms):  # type: ignore[misc]
    """A checkpoint that answers lmms-eval's requests.

    Args:
        pretrained: a checkpoint directory, ``embedded``, or a hub name.
        batch_size: questions a batch.
        device: such as ``cuda:0`` or ``cpu``; by default the GPU of this process, if there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default the precision that AutoPrune
            works with.
        max_batch_size: taken and not needed, as lmms-eval gives it to every model.

    Raises:
        AutoPruneError: the checkpoint cannot be read.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        found = inspect_model(str(pretrained), NAMED)
        self.pretrained = str(pretrained)
        name = dtype or working_precision(found)
        if not isinstance(getattr(torch, name, None), torch.dtype):
            raise AutoPruneError(f"dtype {name!r} is none of torch's: give float32 or bfloat16")
        self.dtype = getattr(torch, name)
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 1
        place = int(os.environ.get("LOCAL_RANK", 0))
        usual = f"cuda:{place}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or usual)
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The model and its processor, loaded when first asked."""
        if self._loaded is None:
            self._loaded = load_model(self.pretrained, self.dtype, self.device, named=NAMED)
            self._loaded.model.eval()
        return self._loaded

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the answer to each request."""
        questions = []
        for number, request in enumerate(requests):
            text, options, to_visual, doc, task, split = request.args
            until = options.get("until") or ()
            limit = options.get("max_new_tokens") or answer_tokens(task, request.metadata)
            questions.append(
                Question(
                    key=str(number),
                    text=text,
                    images=partial(_shown, self.task_dict[task][split], doc, to_visual),
                    max_new_tokens=int(limit),
                    until=(until,) if isinstance(until, str) else tuple(until),
                )
            )
        engine = GenericEngine(self.loaded.processor, self.batch_size)
        return engine.answer(self.loaded.model, questions)

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """Return of each given answer its mean loss a token, and whether it is the greedy one."""
        asked = []
        for request in requests:
            text, given, to_visual, doc, task, split = request.args
            data = self.task_dict[task][split]
            said = given(data[doc]) if callable(given) else given
            asked.append(Given(text, str(said), partial(_shown, data, doc, to_visual)))
        found = losses(self.loaded.processor, self.loaded.model, asked, self.batch_size)
        return [GenerationResult(text=pair) for pair in found]

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse: a talk in rounds is not what is measured here."""
        raise AutoPruneError(
            f"task {requests[0].task_name!r} talks in rounds: choose one that asks once"
        )

    def clean(self) -> None:
        """Give the model's memory back; it is loaded again if it is asked again."""
        self._loaded = None
        super().clean()


def _shown(data: Any, doc: int, to_visual: Any) -> list[Any]:
    return opened(to_visual(data[doc]) if to_visual is not None else None)
