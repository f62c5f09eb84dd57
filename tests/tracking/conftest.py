"""Stores that are made once: a new MLflow database takes seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tracking_fakes import fake_info

from autoprune.tracking.location import artifact_root, default_uri
from autoprune.tracking.records.summary import SearchInfo
from autoprune.tracking.store import MlflowStore


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("database")
    store = MlflowStore(default_uri(home), fake_info(), artifacts=None, experiment="x", writer="")
    store.client.search_experiments()
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Path:
    """A home whose database exists already and is empty."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def open_store(home: Path) -> Callable[..., MlflowStore]:
    def make(info: SearchInfo | None = None, writer: str = "first") -> MlflowStore:
        uri = default_uri(home)
        store = MlflowStore(
            uri,
            info or fake_info(),
            artifacts=artifact_root(uri, home),
            experiment="autoprune",
            writer=writer,
        )
        store.open()
        return store

    return make
