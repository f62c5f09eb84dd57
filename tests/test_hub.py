"""Where nobody answers the hub is not waited for, and caches are read as ever."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from autoprune import hub


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that may ask the hub, whose address nobody answers at."""
    for name in hub.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(hub, "reachable", hub.reachable.__wrapped__)


def test_nobody_is_waited_for(
    online: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = time.monotonic()
    with hub.asked(), pytest.raises(LocalEntryNotFoundError):
        huggingface_hub.snapshot_download("nobody/nothing", cache_dir=tmp_path)
    assert time.monotonic() - begun < hub.SECONDS
    assert not caplog.records
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: True)
    with hub.asked():
        assert not huggingface_hub.constants.HF_HUB_OFFLINE
        logging.getLogger("huggingface_hub.utils").warning("retrying")


def test_a_proxy_is_not_judged(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hub.reachable()
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "http://proxy:1"})
    assert hub.reachable()


def test_what_keeps_the_hub_away(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.switched_off() == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    assert hub.switched_off() == ["HF_HUB_OFFLINE"]
