"""What the registry hands out is the model: as a checkpoint, and as one that MLflow asks."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.cards import write_card
from support.pruned import pruned_checkpoint
from support.questions import SAMPLES
from tracking_fakes import fake_trial

from autoprune.cli.main import run
from autoprune.data.chat import FORMS
from autoprune.evaluation.generation import GenericEngine, Question
from autoprune.models.loading import load_model
from autoprune.models.proof import probe_inputs
from autoprune.tracking import served
from autoprune.tracking.location import default_uri
from autoprune.tracking.ui import start_ui

pytestmark = pytest.mark.slow
TOKENS = 8
FRESH = """
import base64, json, sys
sys.modules["autoprune"] = None
import mlflow, torch, transformers
from safetensors.torch import load_file, save_file
request = json.load(open(sys.argv[1]))
torch.set_num_threads(request["threads"])
mlflow.set_tracking_uri(request["uri"])
directory = mlflow.artifacts.download_artifacts(request["model"], dst_path=request["dst"])
more = {"trust_remote_code": True} if request["own_code"] else {}
model = transformers.AutoModelForImageTextToText.from_pretrained(directory, **more).eval()
transformers.AutoProcessor.from_pretrained(directory)
with torch.no_grad():
    logits = model(**load_file(request["inputs"])).logits
save_file({"logits": logits.contiguous()}, request["logits"])
rows = [{**row, "image": base64.b64decode(row["image"])} for row in request["rows"]]
asked = mlflow.pyfunc.load_model(request["model"])
answers = asked.predict(rows, params={"max_new_tokens": request["tokens"]})
print(json.dumps({"answers": answers, "class": type(model).__name__}))
"""


def picture(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def rows(vision: bool = True) -> list[dict[str, Any]]:
    return [
        {"question": turn.question, **({"image": picture(sample.image)} if vision else {})}
        for sample in SAMPLES
        for turn in sample.turns
    ]


def answers_of(directory: Path, vision: bool = True) -> list[str]:
    """What AutoPrune's own evaluation gets as answers."""
    loaded = load_model(directory)
    questions = [
        Question("", turn.question, lambda s=sample: [s.image] if vision else [], TOKENS)
        for sample in SAMPLES
        for turn in sample.turns
    ]
    return GenericEngine(loaded.processor, 1).answer(loaded.model.eval(), questions)


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tracking server that stores artifacts itself, as one for several people does."""

    def command(uri: str, artifacts: str | None, host: str, port: int) -> list[str]:
        program = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
        program += ["--artifacts-destination", (home / "stored").as_uri()]
        return [*program, "--host", host, "--port", str(port), "--workers", "1"]

    monkeypatch.setattr("autoprune.tracking.ui._command", command)
    ui = start_ui(home)
    yield ui.url
    ui.close()


def registered(name: str, kind: str, uri: str, folder: Path, capsys: Any) -> None:
    """Register a checkpoint by command, and compare what a fresh process gets of it."""
    directory = pruned_checkpoint(name, kind, folder)
    write_card(directory, fake_trial(1), None)
    said = ["register", str(directory), "--name", "tiny", "--tracking-uri", uri, "--json"]
    assert run(said) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["uri"] == "models:/tiny@champion"

    loaded = load_model(directory)
    inputs = probe_inputs(loaded.model, loaded.processor)
    with torch.no_grad():
        logits = loaded.model.eval()(**inputs).logits
    save_file(inputs, folder / "inputs.safetensors")
    asked = [{**row, "image": base64.b64encode(row["image"]).decode()} for row in rows()]
    request = {
        "uri": uri,
        "model": made["uri"],
        "dst": str(folder / "downloaded"),
        "own_code": kind == "any",
        "inputs": str(folder / "inputs.safetensors"),
        "logits": str(folder / "logits.safetensors"),
        "rows": asked,
        "tokens": TOKENS,
        "threads": torch.get_num_threads(),
    }
    (folder / "downloaded").mkdir()
    (folder / "request.json").write_text(json.dumps(request))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder / "request.json")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**environment, "HF_MODULES_CACHE": str(folder / "modules")},
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert torch.equal(load_file(folder / "logits.safetensors")["logits"], logits)
    assert found["class"].startswith("AutoPrune") is (kind == "any")
    assert found["answers"] == answers_of(directory)
    assert any(found["answers"])


def test_a_server_hands_out_the_model(server: str, tmp_path: Path, capsys: Any) -> None:
    registered("llava-llama", "any", server, tmp_path, capsys)
    assert list((tmp_path / "stored").rglob("model.safetensors"))


def test_a_database_hands_out_the_model(home: Path, tmp_path: Path, capsys: Any) -> None:
    registered("internvl-qwen2", "stock", default_uri(home), tmp_path, capsys)


ASKED = [("qwen2_5_vl-qwen2_5_vl_text", "stock"), ("paligemma-gemma", "stock"), ("qwen3", "any")]


@pytest.mark.parametrize(("name", "kind"), ASKED, ids=[name for name, _ in ASKED])
def test_answers_are_those_of_the_evaluation(name: str, kind: str, tmp_path: Path) -> None:
    directory, vision = pruned_checkpoint(name, kind, tmp_path), "-" in name
    asked = served._load_pyfunc(str(directory))
    found = asked.predict(rows(vision), {"max_new_tokens": TOKENS})
    assert found == answers_of(directory, vision)
    with pytest.raises(ValueError, match="no question"):
        asked.predict([{"question": " "}])
    shown = picture(SAMPLES[0].image)
    said = "cannot be read" if vision else "reads no images"
    with pytest.raises(ValueError, match=said):
        asked.predict([{"question": "what ?", "image": b"no picture" if vision else shown}])


def test_models_without_a_chat_template_are_asked_alike() -> None:
    assert served.FORMS == FORMS
