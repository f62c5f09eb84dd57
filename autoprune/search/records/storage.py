"""Where the Optuna study of a search lies: a journal beside its records, or what a URL names."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError
from autoprune.tracking.location import hidden_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """Open Optuna's storage: the journal file, or whatever ``--storage`` names.

    Raises:
        AutoPruneError: the URL is not understood or does not answer, or the journal is damaged.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    if url is None:
        _mend(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = "give an Optuna storage URL such as sqlite:///study.db or postgresql://…"
        if "table schema" in line:  # MLflow and Optuna note their versions in one table
            line = "its tables are those of another program or version"
            mend = "give the study a database of its own, which MLflow does not use"
        raise AutoPruneError(
            f"--storage {hidden_password(url)!r} cannot be opened ({line}): {mend}"
        ) from None


def _mend(journal: Path) -> None:
    """Remove what a kill can leave: a held lock, and half a line at the end.

    Only the driver that holds the search's lock comes here.

    Raises:
        AutoPruneError: a line before the end cannot be read, which no kill leaves.
    """
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if not journal.is_file():
        return
    data = journal.read_bytes()
    if data and not data.endswith(b"\n"):
        with journal.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            json.loads(line)
        except ValueError:
            raise AutoPruneError(
                f"{journal} was damaged at line {number}: remove it, and the search goes on from "
                "the records of its trials"
            ) from None
