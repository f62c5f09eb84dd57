"""Names and aliases of registered models, checked before any work and without MLflow."""

from __future__ import annotations

import re

from autoprune.errors import AutoPruneError

CHAMPION = "champion"


def check_name(name: str) -> None:
    """Refuse a name that MLflow or an address of a model does not take.

    Raises:
        AutoPruneError: it is such a name.
    """
    if not name.strip() or name != name.strip() or not name.isprintable() or name in (".", ".."):
        raise AutoPruneError(f"{name!r} is no name for a model: give one such as my-vlm")
    if odd := sorted(set(name) & set("/\\:@?#%\"`'")):
        raise AutoPruneError(
            f"{name!r} is no name for a model, as {odd[0]!r} means something else in "
            "models:/NAME@ALIAS: use letters, digits, '-', '_' and '.'"
        )


def check_alias(alias: str) -> None:
    """Refuse an alias that MLflow does not take.

    Raises:
        AutoPruneError: it is such an alias.
    """
    if not re.fullmatch(r"[\w-]{1,255}", alias):
        raise AutoPruneError(
            f"{alias!r} is no alias: use letters, digits, '-' and '_', such as {CHAMPION}"
        )
    if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise AutoPruneError(
            f"alias {alias!r} is one that MLflow gives itself: choose another, such as {CHAMPION}"
        )
