"""Starting the MLflow UI lean, and ending it cleanly.

MLflow's server starts ten processes by default, most of them for jobs that AutoPrune has none
of; here it is two, with one worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from autoprune.errors import AutoPruneError, StoppedError
from autoprune.tracking.location import (
    artifact_root,
    check_tracking,
    default_uri,
    is_server,
    sqlite_path,
    without_credentials,
)

HOST = "127.0.0.1"
PORT = 5000
TRIED_PORTS = 20
REFUSED_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080}
    | set(range(6665, 6670))
)
"""Ports above 1023 that the Fetch standard forbids (its "bad ports")."""


class MlflowUI:
    """A running UI: ``url`` is where it answers, `close` ends it (and is safe to call twice)."""

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
        self.url = url
        self.process = process
        self.log = log

    def wait(self) -> None:
        """Return when the server ends by itself; raises KeyboardInterrupt on Ctrl-C.

        Raises:
            StoppedError: the server ended with an error.
        """
        if self.process is not None and (code := self.process.wait()) not in (0, -signal.SIGTERM):
            raise StoppedError(f"the MLflow UI ended with exit code {code}: {_tail(self.log)}")

    def close(self) -> None:
        """End the server and what it started."""
        process, self.process = self.process, None
        if process is None:
            return
        for sign, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                break
        if self.log is not None:
            self.log.unlink(missing_ok=True)


def start_ui(
    home: Path,
    *,
    uri: str | None = None,
    port: int | None = None,
    host: str = HOST,
    timeout: float = 60.0,
) -> MlflowUI:
    """Start the MLflow UI over a home's (or another) store, and return when it answers.

    A tracking server has its UI already: nothing is started then.

    Args:
        home: Directory of the default database and artifacts.
        uri: Tracking URI; the database in ``home`` by default.
        port: Port to listen on; the first free one from 5000 where none is given.
        host: Address to listen on.
        timeout: Seconds to wait for the first answer.

    Raises:
        AutoPruneError: nothing to show, the port is taken, or the server does not come up.
    """
    uri = uri or default_uri(home)
    if is_server(uri):
        check_tracking(uri)
        return MlflowUI(without_credentials(uri).rstrip("/"), None, None)
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise AutoPruneError(
            f"{path} does not exist, so there is no search to show: run one with "
            "`autoprune search`, or name its place with --home DIR"
        )
    check_tracking(uri)
    while True:
        ui = _launched(uri, home, host, taken := _free_port(host, port))
        try:
            _wait_until_up(ui, taken, timeout)
        except AutoPruneError:
            ui.close()
            # Between the look and the server's start another one may have taken the port.
            if port is None and not _is_free(host, taken):
                continue
            raise
        except BaseException:
            ui.close()
            raise
        return ui


def _launched(uri: str, home: Path, host: str, port: int) -> MlflowUI:
    handle, name = tempfile.mkstemp(prefix="autoprune-ui-", suffix=".log")
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    process = subprocess.Popen(
        _command(uri, artifact_root(uri, home), host, port),
        stdin=subprocess.DEVNULL,
        stdout=handle,
        stderr=handle,
        env=environment,
        start_new_session=True,  # Ctrl-C is ours; `close` ends the whole group
    )
    os.close(handle)
    return MlflowUI(f"http://{_shown(host)}:{port}", process, Path(name))


def _command(uri: str, artifacts: str | None, host: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts]
    return [*command, "--host", host, "--port", str(port), "--workers", "1"]


@contextlib.contextmanager
def running_ui(
    home: Path, *, uri: str | None = None, port: int | None = None, host: str = HOST
) -> Iterator[MlflowUI]:
    """Start the UI and end it with the block, also on SIGTERM."""
    with _terminating():
        ui = start_ui(home, uri=uri, port=port, host=host)
        try:
            yield ui
        finally:
            ui.close()


def serve_ui(
    home: Path,
    announce: Callable[[str], None],
    *,
    uri: str | None = None,
    port: int | None = None,
    host: str = HOST,
) -> None:
    """Run the UI until Ctrl-C; ``announce`` gets its address once it answers."""
    with running_ui(home, uri=uri, port=port, host=host) as ui:
        announce(ui.url)
        with contextlib.suppress(KeyboardInterrupt):
            ui.wait()


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that no server outlives its command."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port(host: str, port: int | None) -> int:
    if port is not None:
        if not 0 < port < 65536:
            raise AutoPruneError(f"port {port} does not exist: give one from 1 to 65535")
        if port in REFUSED_PORTS:
            raise AutoPruneError(
                f"port {port} is one that browsers refuse to open: give another, such as {PORT}"
            )
        if not _is_free(host, port):
            raise AutoPruneError(
                f"port {port} is in use: leave --port out to take a free one, or end what listens "
                "there"
            )
        return port
    for candidate in range(PORT, PORT + TRIED_PORTS):
        if _is_free(host, candidate):
            return candidate
    raise AutoPruneError(
        f"ports {PORT} to {PORT + TRIED_PORTS - 1} are all in use: give a free one with --port"
    )


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do, so that a port whose last connection is just closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return False
        except OverflowError:
            return False
        except socket.gaierror as error:
            raise AutoPruneError(
                f"host {host!r} is no address of this machine: try --host 127.0.0.1"
            ) from error
        except OSError:
            return False
    return True


def _shown(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else f"[{host}]" if ":" in host else host


def _wait_until_up(ui: MlflowUI, port: int, timeout: float) -> None:
    """Wait until the server answers, and until it is this one that does."""
    deadline = time.monotonic() + timeout
    assert ui.process is not None
    while time.monotonic() < deadline:
        if ui.process.poll() is not None:
            raise AutoPruneError(f"the MLflow UI did not start: {_tail(ui.log)}")
        try:
            with urllib.request.urlopen(f"{ui.url}/health", timeout=2):
                if _listens(ui.process.pid, port):
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise AutoPruneError(
        f"the MLflow UI did not answer at {ui.url} within {timeout:g} s: {_tail(ui.log)}"
    )


def _listens(pid: int, port: int) -> bool:
    """Say whether a process, or one that it started, listens at a port."""
    import psutil

    try:
        server = psutil.Process(pid)
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for process in (server, *server.children(recursive=True))
            for connection in process.net_connections(kind="tcp")
        )
    except psutil.NoSuchProcess:
        return False


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return "it left no message"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it left no message"
