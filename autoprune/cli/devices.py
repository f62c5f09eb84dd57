"""``autoprune devices``: the devices that models can be planned for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import Home, Json, example, home_dir

if TYPE_CHECKING:
    from autoprune.cost.devices import Device

EXAMPLE = example(
    "autoprune devices",
    "autoprune devices jetson-orin-nano-8gb",
    "autoprune search --device jetson-orin-nano-8gb --budget 40ms-latency",
)


def devices(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one in full: its name, or a measured entry.", metavar="[NAME]"),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the devices that models can be planned for, or show one with its sources.

    Memory is what a model can use; operations are dense, of half precision where it is stated.
    """
    from autoprune.cli.output import console, print_json
    from autoprune.cost.devices import devices as catalogue
    from autoprune.cost.devices import find_device, profiled

    place = home_dir(home)
    if name is not None:
        device = find_device(name, place)
        if as_json:
            print_json(device.to_dict())
            return
        show(device)
        return
    found = {**catalogue(), **profiled(place)}
    if as_json:
        print_json({"devices": [device.to_dict() for device in found.values()]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("device", "kind", "memory", "GB/s", "TFLOP/s"):
        table.add_column(title, justify="left" if title in ("device", "kind") else "right")
    for device in found.values():
        table.add_row(device.name, device.kind, *_figures(device))
    out = console()
    out.print(table)
    out.print("\nautoprune devices NAME shows one in full, with its sources")


def _figures(device: Device) -> tuple[str, str, str]:
    from autoprune.cli.output import size_on_disk

    half = [device.compute[d] for d in ("bfloat16", "float16", "float32") if d in device.compute]
    rate = f"{half[0] / 1e12:.3g}" if half else "–"
    return size_on_disk(device.memory), f"{device.bandwidth / 1e9:.4g}", rate


def show(device: Device) -> None:
    """Print a device in full."""
    from rich.table import Table

    from autoprune.cli.output import console, size_on_disk

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # addresses are long words
    table.add_row("device", device.name)
    table.add_row("", device.title)
    table.add_row("kind", device.kind)
    kept = f" of {size_on_disk(device.installed)}: {device.basis}" if device.installed else ""
    table.add_row("memory", size_on_disk(device.memory) + kept)
    table.add_row("bandwidth", f"{device.bandwidth / 1e9:.4g} GB/s")
    for wide, rate in device.reading.items():
        table.add_row(f"{wide:,} wide", f"{rate / 1e9:.4g} GB/s of matrices of that many columns")
    if device.cache_bandwidth:
        table.add_row("attention", f"reads its cache at {device.cache_bandwidth / 1e9:.4g} GB/s")
    for dtype, rate in device.compute.items():
        table.add_row(dtype, f"{rate / 1e12:.4g} TFLOP/s dense")
    if not device.compute:
        table.add_row("operations", "not stated: bandwidth alone decides the time of a token")
    if device.layer_seconds or device.step_seconds:
        table.add_row(
            "overhead",
            f"{1e6 * device.layer_seconds:.3g} µs a layer, {1e6 * device.step_seconds:.3g} µs a "
            "token",
        )
    if device.unchecked:
        named = ", ".join(device.unchecked)
        table.add_row("unchecked", f"{named}: from memory of what the vendor says")
    for place, source in enumerate(device.sources):
        heading = "measured" if device.measured else "stated by"
        table.add_row("" if place else heading, source)
    console().print(table)
