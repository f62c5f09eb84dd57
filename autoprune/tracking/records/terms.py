"""What a search is held to: the dense model, the budget, and what models run on."""

from __future__ import annotations

from pydantic import FiniteFloat

from autoprune.tracking.records.base import Figure, Record
from autoprune.tracking.records.timing import Timing


class Dense(Record):
    """The model before pruning."""

    params: int
    bytes: int | None = None
    memory: int | None = None  # while it answers, at the search's prompt
    latency: Figure = None  # seconds a token on the search's device
    precision: str = ""  # that it is worked with in, and its bytes are counted in
    scores: dict[str, FiniteFloat] = {}
    measured: Timing | None = None  # of a token on this machine, where the search was for that

    @property
    def measured_latency(self) -> float | None:
        """Seconds a token as measured, where they were."""
        return None if self.measured is None else self.measured.seconds


class Budget(Record):
    """The bound on the whole model, as typed and as a number of parameters."""

    text: str  # "60%", "3B-params", "3GiB-bytes"
    params: int
    fraction: FiniteFloat
    bytes: int | None = None  # where bytes are the objective
    memory: int | None = None  # most bytes while answering, where those are bounded
    latency: Figure = None  # most seconds a token, where that is bounded

    @property
    def measured_latency(self) -> float | None:
        """Most seconds a token: what is measured is held to the same bound."""
        return self.latency


class Running(Record):
    """The prompt and the device that memory and latency are said for."""

    context: int  # tokens of text
    images: int
    image_tokens: int  # of one
    image: str = ""  # that these were counted for, where they were not given
    device: str = ""
    latency_kind: str = ""  # modelled or measured
    bounds: tuple[str, ...] = ()  # what candidates keep to beside their size
    machine: str = ""  # that latency was measured on as well

    @property
    def said(self) -> str:
        """Both in words."""
        return (
            f"{self.prompt} on {self.device}, {self.latency_kind}" if self.device else self.prompt
        )

    @property
    def prompt(self) -> str:
        """The prompt in words."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        what = f"{self.context:,} tokens of text"
        if self.image_tokens:
            what += f" and {images} of {self.image_tokens:,} tokens"
            what += f" ({self.image})" if self.image else ""
        return what
