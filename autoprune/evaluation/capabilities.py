"""What tasks ask for: a table of capabilities by task, which a user may add to."""

from __future__ import annotations

from collections.abc import Iterable

from autoprune.errors import AutoPruneError

CAPABILITIES: dict[str, tuple[str, ...]] = {
    "reading": (
        "textvqa_val",
        "ocrbench",
        "docvqa_val",
        "chartqa",
        "infovqa_val",
        "digits_read",
    ),
    "hallucination": (
        "pope",
        "pope_adv",
        "pope_pop",
        "pope_random",
        "hallusion_bench_image",
        "digits_exist",  # asked as POPE does
    ),
    "reasoning": (
        "scienceqa_img",
        "mmmu_val",
        "mathvista_testmini",
        "mathvista_testmini_format",
        "ai2d",
        "digits_sum",
        "digits_compare",
        "digits_order",
        "digits_total",
        "digits_two_hop",
    ),
    "perception": (
        "mme",
        "mmbench_en_dev_static",
        "seedbench",
        "mmstar",
        "gqa",
        "vqav2_val",
        "realworldqa",
        "digits_colour",
        "digits_count",
    ),
    "spatial": ("digits_where", "digits_relation", "vstar_bench_relative_position"),
}
"""Task names by capability; a task that asks for several stands under each."""


def capabilities_of(name: str, tags: Iterable[str] = (), said: object = None) -> tuple[str, ...]:
    """Return the capabilities of a task.

    Args:
        name: of the task; a ``_lite`` variant is its task.
        tags: words that its YAML file carries; those that name a capability count.
        said: what the file's metadata says, a word or several.
    """
    own = [said] if isinstance(said, str) else list(said) if isinstance(said, (list, tuple)) else []
    names = [group for group, tasks in CAPABILITIES.items() if name.removesuffix("_lite") in tasks]
    names += [tag for tag in tags if tag in CAPABILITIES]
    return tuple(dict.fromkeys([*map(str, own), *names]))


def parse_pairs(items: Iterable[str], option: str, example: str) -> list[tuple[str, str]]:
    """Return (name, value) of each ``NAME=VALUE``.

    Raises:
        AutoPruneError: an item has no such form.
    """
    pairs = []
    for item in items:
        name, sep, value = (part.strip() for part in item.partition("="))
        if not (name and sep and value):
            raise AutoPruneError(f"{option} {item!r} is not NAME=VALUE: write it as {example}")
        pairs.append((name, value))
    return pairs
