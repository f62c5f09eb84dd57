"""A tracking URI is proved within seconds, or refused in one line that says what to do."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from autoprune.errors import AutoPruneError
from autoprune.tracking.location import (
    artifact_root,
    check_tracking,
    default_uri,
    hidden_password,
    without_credentials,
)


@contextmanager
def server(status: int, body: bytes, seen: list[str] | None = None) -> Iterator[str]:
    """An HTTP server on this machine that gives the same answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if seen is not None:
                seen.append(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refusal(uri: str) -> str:
    with pytest.raises(AutoPruneError) as caught:
        check_tracking(uri, timeout=2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_place_is_made(tmp_path: Path) -> None:
    uri = default_uri(tmp_path / "new" / "home")
    check_tracking(uri)
    assert (tmp_path / "new" / "home").is_dir()
    assert artifact_root(uri, tmp_path) == f"file://{tmp_path}/artifacts"
    assert artifact_root("http://host:5000", tmp_path) is None


def test_a_database_in_use_is_fine(tmp_path: Path, empty_database: Path) -> None:
    check_tracking(f"sqlite:///{empty_database}")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--home DIR" in refusal(f"sqlite:///{tmp_path}/file/mlflow.db")
    (tmp_path / "folder").mkdir()
    assert "cannot be written" in refusal(f"sqlite:///{tmp_path}/folder")


@pytest.mark.parametrize("name", ["per%20cent", "q?mark", "c#"])
def test_a_path_that_an_address_cannot_hold(tmp_path: Path, name: str) -> None:
    assert "--home DIR" in refusal(default_uri(tmp_path / name))
    check_tracking(default_uri(tmp_path / "my dir é"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked at" * 9)
    assert "not a sqlite database" in refusal(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mlruns", "sqlite:///"),
        ("file:///tmp/mlruns", "sqlite:////tmp/mlruns/mlflow.db"),
        ("sqlite://", "names no file"),
        ("htpp://host:5000", "did you mean 'http'"),
    ],
)
def test_uris_that_mlflow_does_not_keep_runs_in(uri: str, says: str) -> None:
    assert says in refusal(uri)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_nobody_there(scheme: str) -> None:
    assert "does not answer" in refusal(f"{scheme}://127.0.0.1:{closed_port()}")


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (
            "postgresql+pg8000",
            "needs Python module pg8000, which is not installed: pip install pg8000",
        ),
        ("mysql", "needs Python module MySQLdb, which is not installed: pip install mysqlclient"),
        ("postgresql+nodriver", "names no database that is known"),
    ],
)
def test_a_driver_that_is_missing_is_named(
    scheme: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pg8000", "MySQLdb"):
        monkeypatch.setitem(sys.modules, module, None)
    said = refusal(f"{scheme}://me:secret@127.0.0.1:{closed_port()}/runs")
    assert says in said
    assert "secret" not in said


def test_a_silent_host_is_given_up_on_time() -> None:
    with silent_port() as port:
        started = time.monotonic()
        assert "does not answer" in refusal(f"http://127.0.0.1:{port}")
        assert time.monotonic() - started < 4


def test_a_server_that_answers_as_mlflow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    with server(200, json.dumps({"experiments": []}).encode(), seen) as url:
        check_tracking(url)
        check_tracking(url.replace("http://", "http://me:secret@"))
    assert seen[0] == "Bearer abc"
    assert seen[1].startswith("Basic ")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>a router</html>", "not as an MLflow server"),
        (404, b"", "not as an MLflow server"),
        (401, b"", "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_a_server_that_is_something_else(status: int, body: bytes, says: str) -> None:
    with server(status, body) as url:
        assert says in refusal(url)


def test_a_password_is_not_shown() -> None:
    uri = f"postgresql://me:secret@127.0.0.1:{closed_port()}/runs"
    assert "secret" not in refusal(uri)
    assert hidden_password(uri).startswith("postgresql://me:***@")


def test_credentials_are_not_stored_or_linked_to() -> None:
    assert without_credentials("https://me:secret@host:8443/x") == "https://host:8443/x"
    assert without_credentials("sqlite:////x/mlflow.db") == "sqlite:////x/mlflow.db"
