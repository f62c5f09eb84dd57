"""Amounts in three figures: never with an exponent, and a full unit is the next one."""

from __future__ import annotations

import pytest

from autoprune.amounts import seconds_text
from autoprune.cost.bytes import format_bytes
from autoprune.cost.parameters import format_params
from autoprune.tracking.terminal import bytes_text, params_text


@pytest.mark.parametrize(
    ("said", "amount", "text"),
    [
        (seconds_text, 0.0412, "41.2ms"),
        (seconds_text, 0.9996, "1s"),
        (seconds_text, 0.0009994, "999µs"),
        (seconds_text, 12e-9, "12ns"),
        (seconds_text, 1234.0, "1234s"),
        (format_bytes, 3 * 2**30, "3GiB"),
        (format_bytes, 1010 * 2**20, "1010MiB"),
        (format_bytes, 512, "512B"),
        (format_bytes, 0, "0B"),
        (format_params, 2_030_000, "2.03M"),
        (format_params, 999_700_000, "1B"),
        (format_params, 12, "12"),
        (params_text, 999_600, "1.00M"),
        (params_text, 847_000, "847k"),
        (bytes_text, 1010 * 2**20, "1010MiB"),
        (bytes_text, 0, "0B"),
    ],
)
def test_in_three_figures(said: object, amount: float, text: str) -> None:
    assert said(amount) == text  # type: ignore[operator]
