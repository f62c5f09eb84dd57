"""Where MLflow keeps a search's runs, and whether that place can be written to.

Answers within seconds and without importing MLflow (which takes about four), so that a bad
`--tracking-uri` is known before any work starts.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import socket
import sqlite3
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from autoprune.errors import AutoPruneError, did_you_mean

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What to install for a driver's module, where the names differ."""
SCHEMES = ("sqlite", "http", "https", "databricks", *DEFAULT_PORTS)


def default_uri(home: Path) -> str:
    """Return the tracking URI of a home directory: sqlite in `mlflow.db`."""
    return f"sqlite:///{home.resolve() / 'mlflow.db'}"


def artifact_root(uri: str, home: Path) -> str | None:
    """Return where artifacts of a new experiment go, or None where a server decides that."""
    if urlsplit(uri).scheme in ("http", "https", "databricks"):
        return None
    return (home.resolve() / "artifacts").as_uri()


def is_server(uri: str) -> bool:
    """Whether the URI names an MLflow server, which then serves the UI, too."""
    return urlsplit(uri).scheme in ("http", "https")


def hidden_password(uri: str) -> str:
    """Return the URI as it may be shown: without a password."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return uri.replace(f":{parts.password}@", ":***@", 1)


def without_credentials(uri: str) -> str:
    """Return the URI as it may be stored or linked to: without user and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def check_tracking(uri: str, *, timeout: float = 5.0) -> None:
    """Prove that a tracking URI can be written to, within about ``timeout`` seconds.

    Raises:
        AutoPruneError: it does not answer, is not MLflow, asks for credentials, is not
            writable, or is of a kind that MLflow does not keep runs in.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in ("http", "https"):
        _within(timeout, lambda: _check_server(uri, timeout * 0.8), uri)
    elif scheme in DEFAULT_PORTS:
        _check_driver(uri)
        _within(timeout, lambda: _check_port(parts, scheme, timeout * 0.8), uri)
    elif scheme in ("", "file"):
        path = parts.path or uri
        raise AutoPruneError(
            f"tracking URI {uri!r} is a directory, and MLflow keeps runs in a database: "
            f"try --tracking-uri sqlite:///{Path(path).absolute() / 'mlflow.db'}"
        )
    elif scheme != "databricks":
        raise AutoPruneError(
            f"tracking URI {hidden_password(uri)!r} has no scheme that MLflow knows"
            f"{did_you_mean(scheme, SCHEMES)}"
        )


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a sqlite URI, or None for another kind."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///"))


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None or not path.name or path.name == ":memory:":
        raise AutoPruneError(
            f"tracking URI {uri!r} names no file: write sqlite:////absolute/path/mlflow.db"
        )
    if odd := sorted(set(str(path)) & set("?#%")):
        raise AutoPruneError(
            f"{path} has {odd[0]!r} in it, which means something else in a database's address: "
            "give another place with --home DIR"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError
        connection = sqlite3.connect(path, timeout=3)
        try:
            # Takes the write lock and creates the journal beside the file, then lets go.
            connection.execute("begin immediate")
            connection.execute("select count(*) from sqlite_master").fetchone()
            connection.rollback()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            return  # someone else is writing: MLflow waits for its turn
        if "not a database" in str(error):
            raise AutoPruneError(
                f"{path} is not a sqlite database: move it away, or name another file with "
                "--tracking-uri"
            ) from error
        raise AutoPruneError(_not_writable(path)) from error
    except OSError as error:
        raise AutoPruneError(_not_writable(path)) from error


def _not_writable(path: Path) -> str:
    return (
        f"{path} cannot be written: give another place with --home DIR or --tracking-uri, "
        "or change its permissions"
    )


def _check_server(uri: str, timeout: float) -> None:
    request = urllib.request.Request(
        without_credentials(uri).rstrip("/") + "/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 1}).encode(),
        headers={"Content-Type": "application/json", **_credentials(uri)},
        method="POST",
    )
    shown = hidden_password(uri)
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=_tls()) as answer:
            json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise AutoPruneError(
                f"{shown} asks for credentials: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from error
        raise AutoPruneError(
            f"{shown} answers with HTTP {error.code}, not as an MLflow server: check the address "
            "and the port of --tracking-uri"
        ) from error
    except ValueError as error:
        raise AutoPruneError(
            f"{shown} answers, but not as an MLflow server: check the address and the port of "
            "--tracking-uri"
        ) from error
    except OSError as error:
        raise AutoPruneError(_no_answer(uri, error)) from error


def _credentials(uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _tls() -> ssl.SSLContext:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        return ssl._create_unverified_context()
    return ssl.create_default_context(
        cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None
    )


def _check_driver(uri: str) -> None:
    """Check that the driver of a database is installed: the one it names, or SQLAlchemy's own."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        module = str(error.name)
        raise AutoPruneError(
            f"tracking URI {hidden_password(uri)!r} needs Python module {module}, which is not "
            f"installed: pip install {PACKAGES.get(module, module)}"
        ) from None
    except (ArgumentError, NoSuchModuleError) as error:
        raise AutoPruneError(
            f"tracking URI {hidden_password(uri)!r} names no database that is known "
            f"({str(error).splitlines()[0]}): write postgresql://USER:PASSWORD@HOST/NAME"
        ) from None


def _check_port(parts: SplitResult, scheme: str, timeout: float) -> None:
    address = (parts.hostname or "localhost", parts.port or DEFAULT_PORTS[scheme])
    try:
        socket.create_connection(address, timeout=timeout).close()
    except OSError as error:
        raise AutoPruneError(_no_answer(parts.geturl(), error)) from error


def _no_answer(uri: str, error: object) -> str:
    reason = getattr(error, "reason", error)
    return (
        f"tracking URI {hidden_password(uri)!r} does not answer ({reason}): start the server, "
        "correct the address, or leave --tracking-uri out to log to a local file"
    )


def _within(timeout: float, check: Callable[[], None], uri: str) -> None:
    """Run a check that may hang (a name server, a silent host) and give up on time."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            check()
            outcome.put(None)
        except BaseException as error:
            outcome.put(error)

    threading.Thread(target=attempt, daemon=True, name="check-tracking").start()
    try:
        error = outcome.get(timeout=timeout)
    except queue.Empty:
        raise AutoPruneError(_no_answer(uri, f"nothing within {timeout:g} s")) from None
    if error is not None:
        raise error
