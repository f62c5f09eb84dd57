"""What every model of latency keeps to."""

from __future__ import annotations

import dataclasses
import math

from autoprune.cost.deployment import Deployment
from autoprune.cost.devices import Device
from autoprune.cost.latency import CostModel
from autoprune.models.precision import PRECISIONS
from autoprune.models.shape import LayerShape
from autoprune.testing.toy import toy_spec

LAYERS = 4
PROMPT = Deployment(256, 1, 64, (None,) * LAYERS, head_params=32 * 100)
DEVICE = Device(
    name="toy",
    title="a made-up device",
    kind="test",
    memory=2**30,
    bandwidth=1e9,
    compute={"float32": 1e10, "bfloat16": 2e10},
)


def check_cost_model(model: CostModel) -> None:
    """Check a model of latency on a made-up shape, prompt and device.

    It says a finite time above 0, at every precision, and the same twice; the dense model takes
    as long as all of its layers; fewer heads, channels or layers take no longer, as budgets are met
    by taking them away; and no more is seen in less time.

    Args:
        model: returns the seconds of a token.

    Raises:
        AssertionError: naming the promise that is broken.
    """
    spec = toy_spec(LAYERS, heads=8, groups=4, channels=256, outside=1000)
    dense = list(spec.layers)
    for precision in PRECISIONS:
        seconds = model(spec, None, precision, PROMPT, DEVICE)
        assert isinstance(seconds, (int, float)), f"says a {type(seconds).__name__}, and no number"
        assert 0 < seconds < math.inf, f"says {seconds} s, and no time above 0"
        again = model(spec, None, precision, PROMPT, DEVICE)
        assert seconds == again, "another time when it is asked again"
        whole = model(spec, dense, precision, PROMPT, DEVICE)
        assert math.isclose(whole, seconds), "all layers take another time than the dense model"
        gone = LayerShape(0, 0, 0)
        for what, shape in (
            ("heads", LayerShape(4, 2, 256)),
            ("channels", LayerShape(8, 4, 128)),
            ("layers", gone),
        ):
            last = whole
            for count in range(1, LAYERS):
                now = model(spec, [shape] * count + dense[count:], precision, PROMPT, DEVICE)
                assert now <= last, f"fewer {what} take longer at {precision}"
                last = now
            assert last < whole, f"fewer {what} take no less at {precision}"
        longer = dataclasses.replace(PROMPT, context=4 * PROMPT.context)
        assert model(spec, None, precision, longer, DEVICE) >= seconds, "more is seen in less time"
