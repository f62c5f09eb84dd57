"""A Ray session: a quiet local cluster of our own, or a running one that is joined and left."""

from __future__ import annotations

import importlib
import logging
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psutil

from autoprune.errors import AutoPruneError, StoppedError
from autoprune.resources import Resources
from autoprune.search.settings import SearchSettings

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver ends the search itself, and faster
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "600",
    # Tune's own state is never restored; ours is.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}
"""Environment of the driver while a session lasts."""

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "TRANSFORMERS_OFFLINE")


def resources_of(settings: SearchSettings) -> Resources:
    """Return what one trial may use."""
    return Resources(cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial)


def worker_environment(settings: SearchSettings) -> dict[str, str]:
    """Return the environment that workers need: threads of a trial, and the user's choices."""
    threads = str(resources_of(settings).threads())
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**env, **dict.fromkeys(names, threads), "TOKENIZERS_PARALLELISM": "false"}


class RaySession:
    """Starts Ray in the background, so that the driver prepares meanwhile.

    Use as a context manager; :meth:`begin` returns at once, :meth:`ready` waits. A local
    cluster is ended with the session; a joined one is left running. Should the driver be
    killed, Ray's reaper ends the local cluster's processes, and a joined cluster ends this
    job's workers.

    Args:
        settings: workers and resources, or the address to join.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._up, self._end = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._saved: dict[str, str | None] = {}
        self._ours = False

    def begin(self) -> None:
        """Start Ray in a thread; does nothing the second time."""
        if self._thread is None:
            pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(self._settings.workers)}
            self._set({**QUIET, **pending})
            self._thread = threading.Thread(target=self._start, name="ray", daemon=True)
            self._thread.start()

    def ready(self) -> None:
        """Wait until Ray runs.

        Raises:
            AutoPruneError: Ray did not start, or does not answer at the address.
        """
        self.begin()
        self._up.wait()
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        try:
            self._init()
            importlib.import_module("autoprune.search.workers.tune")  # takes seconds, too
        except BaseException as error:
            self._error = error
        self._up.set()
        # Ray asks the kernel to end its processes with the thread that started them.
        self._end.wait()

    def _init(self) -> None:
        import ray

        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # Ray prints what becomes of its workers to stdout, which belongs to the caller; the
        # search says itself which trial was lost, and why.
        vars(ray._private.worker)["_worker_logs_enabled"] = False
        if ray.is_initialized():  # a test's, shared by several searches
            return
        settings = self._settings
        env = worker_environment(settings)
        common: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "configure_logging": False,
        }
        if settings.ray_address is not None:
            try:
                ray.init(address=settings.ray_address, runtime_env={"env_vars": env}, **common)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                line = str(error).strip().splitlines()[0]
                raise AutoPruneError(
                    f"--ray-address {settings.ray_address!r} cannot be joined ({line}): start a "
                    "cluster by 'ray start --head'; where it asks for a token, set "
                    "RAY_AUTH_MODE=token on both sides"
                ) from None
            self._ours = True
            return
        # Workers of a local cluster inherit the environment that it is started in (a runtime
        # environment would cost each worker seconds), and import whatever the driver can.
        env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            _patiently(
                lambda: ray.init(
                    address="local",
                    num_cpus=math.ceil(settings.workers * settings.cpus_per_trial),
                    include_dashboard=False,
                    object_store_memory=object_store_bytes(settings),
                    **common,
                )
            )
        finally:
            _put_back(before)
        self._ours = True

    def _set(self, values: dict[str, str]) -> None:
        self._saved.update({name: os.environ.get(name) for name in values})
        os.environ.update(values)

    def close(self) -> None:
        """End the session."""
        if self._thread is not None:
            self._up.wait()
            if self._ours:
                import ray

                ray.shutdown()
                self._ours = False
            self._end.set()
            self._thread.join()
        _put_back(self._saved)
        self._saved = {}

    def __enter__(self) -> RaySession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _patiently(start: Callable[[], Any]) -> None:
    """Start Ray; once more if it does not come up, since it gives a busy machine 30 seconds.

    Raises:
        StoppedError: it did not come up again: a matter of memory or time, not a bug of ours.
    """
    import ray

    for attempt in range(2):
        try:
            start()
            return
        except (Exception, SystemExit) as error:
            ray.shutdown()
            if attempt == 0:
                continue
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StoppedError(
                f"Ray did not start on this machine ({line}): free some memory or CPU, and run "
                "the same command again"
            ) from error


def check_address(address: str | None, timeout: float = 5.0) -> None:
    """See that something listens at a cluster's address; Ray itself would try for minutes.

    Raises:
        AutoPruneError: it is not ``auto`` or ``host:port``, or nobody answers there.
    """
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise AutoPruneError(f"--ray-address {address!r} is neither 'auto' nor host:port")
    try:
        socket.create_connection((host, int(port)), timeout).close()
    except (OSError, OverflowError) as error:
        raise AutoPruneError(
            f"--ray-address {address!r} does not answer ({error}): "
            "start a cluster by 'ray start --head', or leave the option out"
        ) from None


def object_store_bytes(settings: SearchSettings) -> int:
    """Return the size of the local object store: the caches and some weights, within reason.

    It is an upper bound: memory is taken as arrays are put. What does not fit is spilled.
    """
    wanted = settings.cache_bytes + 512 * 2**20
    machine = psutil.virtual_memory().total
    try:
        shared = psutil.disk_usage("/dev/shm").free
    except OSError:
        shared = machine
    return max(128 * 2**20, min(wanted, int(0.3 * machine), int(0.9 * shared)))


def _put_back(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
