"""Runs, models and a study in a real PostgreSQL database, as on a cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cards import write_card
from tracking_fakes import fake_info, fake_summary, fake_trials

from autoprune.errors import AutoPruneError
from autoprune.search.records.storage import open_storage
from autoprune.tracking.location import artifact_root, check_tracking
from autoprune.tracking.registry import register
from autoprune.tracking.store import MlflowStore

pytestmark = pytest.mark.slow


def program(name: str) -> str | None:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else shutil.which(name)


def owner() -> dict[str, Any]:
    """PostgreSQL does not run as root: another user does it then."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty database, beside one for studies, in a cluster of its own."""
    initdb, ctl = program("initdb"), program("pg_ctl")
    if initdb is None or ctl is None:
        pytest.skip("PostgreSQL is not installed: nothing was stored in one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Outside of pytest's folders, which only their owner may enter.
    folder = Path("/tmp") / f"autoprune-pg-{os.getpid()}"
    folder.mkdir(mode=0o700)
    more = {**owner(), "cwd": "/", "check": True, "stdout": subprocess.DEVNULL}
    more |= {"stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    if "user" in more:
        os.chown(folder, more["user"], more["group"])
    data = folder / "data"
    try:
        subprocess.run([initdb, "-D", data, "-U", "me", "-A", "trust", "--no-sync"], **more)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = folder / "log"
        subprocess.run([ctl, "-D", data, "-l", log, "-w", "-o", options, "start"], **more)
        try:
            at = ["-h", "127.0.0.1", "-p", str(port), "-U", "me"]
            subprocess.run([Path(ctl).with_name("createdb"), *at, "studies"], **more)
            yield f"postgresql://me@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([ctl, "-D", data, "-m", "immediate", "stop"], **more)
    finally:
        shutil.rmtree(folder)


def test_runs_a_model_and_a_study_in_postgresql(database: str, tmp_path: Path) -> None:
    check_tracking(database)
    records = fake_trials(4)
    summary = fake_summary(records)
    store = MlflowStore(
        database,
        fake_info(),
        artifacts=artifact_root(database, tmp_path),
        experiment="autoprune",
        writer="",
    )
    store.open()
    for record in records:
        store.log_trial(record)
    store.log_points(summary)
    store.log_summary(summary, records)
    store.close("complete")
    point = summary.front[-1]
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    write_card(directory, records[point.trial], point)
    made = register(database, directory, "small", home=tmp_path)
    assert made.linked
    assert made.run_id == store.runs[point.trial]
    assert register(database, directory, "small").existed
    assert list((tmp_path / "artifacts").rglob("model.safetensors"))

    import optuna

    journal = tmp_path / "journal"
    with pytest.raises(AutoPruneError, match="a database of its own, which MLflow does not use"):
        open_storage(database, journal)
    url = database.replace("/postgres", "/studies")
    study = optuna.create_study(storage=open_storage(url, journal), study_name="demo")
    study.tell(study.ask(), 1.0)
    again = optuna.load_study(storage=open_storage(url, journal), study_name="demo")
    assert again.best_value == 1.0
