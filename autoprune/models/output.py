"""Directories that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.errors import AutoPruneError

# Errors of the machine, not of this code: permission, read-only, full, over quota.
_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
NO_SPACE = "No space left on device"
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def check_output_dir(path: str | Path) -> Path:
    """Check that a checkpoint can be written to ``path``; meant to be called before any work.

    Returns:
        The path, absolute.

    Raises:
        AutoPruneError: if it exists and is not an empty directory, or cannot be written.
    """
    out = Path(path).expanduser().absolute()
    if out.exists() or out.is_symlink():
        if not out.is_dir():
            raise AutoPruneError(f"output {out} is a file: name a directory that does not exist")
        if any(out.iterdir()):
            raise AutoPruneError(
                f"output {out} exists and is not empty: name another directory, or empty it"
            )
    # The checkpoint is written beside its place and renamed, so the parent must be writable.
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise AutoPruneError(f"output {out} lies below the file {parent}: name another directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise AutoPruneError(
            f"output {out} cannot be written: no permission to write in {parent}; name another "
            "directory"
        )
    if is_virtual(parent):
        raise AutoPruneError(
            f"output {out} cannot be written: {parent} holds no files; name another directory"
        )
    return out


def is_virtual(place: Path) -> bool:
    """Whether a directory is the kernel's own: permissions let root write there, nothing can."""
    return any(place.is_relative_to(root) for root in ("/proc", "/sys"))


def scratch_prefix(out: Path) -> str:
    """Return how directories begin that ``out`` is made in, beside it: hidden, and by whom."""
    return f".{out.name}.{_machine()}-{os.getpid()}."


def sweep(out: Path) -> None:
    """Remove what processes of this machine left beside ``out`` when they were killed."""
    form = re.compile(rf"\.{re.escape(out.name)}\.{re.escape(_machine())}-(\d+)\.\w+")
    for place in out.parent.iterdir() if out.parent.is_dir() else ():
        found = form.fullmatch(place.name)
        if found and not _alive(int(found[1])):
            shutil.rmtree(place, ignore_errors=True)


def _machine() -> str:
    return re.sub(r"\W", "_", platform.node()) or "here"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Give a directory to write into, and move it to ``out`` if the block ends without an error.

    Otherwise nothing is left behind.  The files get the rights that the user's mask says, which
    a temporary directory does not give.

    Args:
        out: from :func:`check_output_dir`.

    Raises:
        AutoPruneError: if it cannot be written or was filled meanwhile.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=scratch_prefix(out)))
    except OSError as error:
        raise AutoPruneError(
            f"output {out} cannot be written ({error.strerror}): name another directory"
        ) from None
    try:
        yield work
        mask = os.umask(0)
        os.umask(mask)
        for file in work.rglob("*"):
            file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
        work.chmod(0o777 & ~mask)
        work.replace(out)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _TAKEN:
            raise AutoPruneError(
                f"output {out} was filled by someone else meanwhile: name another directory"
            ) from None
        if reason := _machine_reason(error):
            raise AutoPruneError(
                f"output {out} cannot be written ({reason}): free some space or name another "
                "directory"
            ) from None
        raise


def _machine_reason(error: BaseException) -> str:
    """Return why the machine does not write, empty for what is no error of the machine."""
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return error.strerror or str(error)
    return NO_SPACE if NO_SPACE in str(error) else ""  # safetensors has an error of its own
