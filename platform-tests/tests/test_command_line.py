"""The `penstock` command, as a person and as a script use it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from stack_process import PENSTOCK, ROOT, RunningStack

pytestmark = pytest.mark.usefixtures("local_processes")


def test_ingest_ask_models_status_and_logs(stack: RunningStack, tmp_path: Path) -> None:
    (tmp_path / "plant.md").write_text("# Plant\n\nThe plant at Akosombo has six turbines.\n")
    (tmp_path / "note.bin").write_bytes(b"\x00\x01")
    ingested = json.loads(stack.penstock("ingest", "cli", str(tmp_path), "--json").stdout)
    assert [(result["document_id"], result["status"]) for result in ingested] == [("plant.md", "stored")]
    asked = stack.penstock("ask", "cli", "How many turbines has the plant at Akosombo?")
    assert "six turbines" in asked.stdout
    assert "plant.md" in asked.stdout
    assert "provenance ans_" in asked.stdout
    models = stack.penstock("models").stdout
    assert "extractive-reader" in models
    status = stack.penstock("status")
    assert status.returncode == 0
    assert "metrics 19081" in " ".join(status.stdout.split())
    assert '"service":"gateway"' in stack.penstock("logs", "gateway").stdout


def test_mistakes_are_one_line_and_a_status(stack: RunningStack) -> None:
    for arguments in (["ask", "no-such-base", "x"], ["logs", "nobody"], ["trace", "0" * 32]):
        done = stack.penstock(*arguments, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("penstock:")
        assert "Traceback" not in done.stderr


def test_a_taken_port_is_named_before_anything_starts(stack: RunningStack, tmp_path: Path) -> None:
    environment = {**stack.environment, "PENSTOCK_STATE": str(tmp_path)}
    done = subprocess.run([str(PENSTOCK), "up"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "gateway.rest (18080)" in " ".join(done.stderr.split())
    assert not (tmp_path / "supervisord.conf").exists()


def test_a_mistake_in_the_catalogue_names_its_path(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.yaml"
    text = (ROOT / "deploy/local/catalogue.yaml").read_text()
    catalogue.write_text(text.replace("task: generate", "taks: generate", 1))
    environment = {**os.environ, "INFERENCE_CATALOGUE_FILE": str(catalogue)}  # noqa: TID251
    command = [str(PENSTOCK.parent / "python"), "-m", "inference.main"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=30, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "models[2].taks" in done.stderr
