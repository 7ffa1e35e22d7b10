"""The checker that `penstock config` runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from gateway.adapters.config_command import main

ROOT = Path(__file__).resolve().parents[4]
CATALOGUE = """
servers: {local: {address: "127.0.0.1:1"}}
models:
  - {name: one, task: generate, region: eu, triton: {server: local, model: m}}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main([str(each) for each in arguments])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.yaml"
    path.write_text(CATALOGUE)
    return path


def write(folder: Path, text: str, name: str = "gateway.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_right_file_has_no_problems(tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "routes: {r: {candidates: [one]}}\ntenants: {acme: {region: eu}}")
    assert run(capsys, "check", path, "--catalogue", catalogue) == (0, {"problems": []})


def test_what_the_catalogue_lacks_is_a_problem(
    tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "routes: {r: {candidates: [two]}}\ntenants: {acme: {region: us}}")
    code, found = run(capsys, "check", path, "--catalogue", catalogue)
    assert code == 1
    assert found["problems"] == [
        "routes.r.candidates[0]: no model 'two' is in the catalogue",
        "tenants.acme.region: no model of the catalogue runs in 'us'",
    ]


@pytest.mark.parametrize("text", ["models: 7", "{}", "- a", "models: [{name: one, task: dance}]", "a: ["])
def test_a_wrong_catalogue_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    wrong = write(tmp_path, text, "c.yaml")
    code, found = run(capsys, "check", write(tmp_path, "{}"), "--catalogue", wrong)
    assert code == 1
    assert "catalogue" in found["problems"][0]


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", tmp_path / "nowhere.yaml")[0] == 1


def test_a_diff_names_every_field_that_would_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = write(
        tmp_path,
        "routes: {r: {candidates: [one], timeout_s: 5}}\ntenants: {acme: {limits: {budget_day: 1.50}}}",
        "live",
    )
    new = write(tmp_path, "routes: {r: {candidates: [two]}}\ntenants: {acme: {limits: {budget_day: '1.5'}}, b: {}}")
    code, found = run(capsys, "diff", new, "--live", live)
    assert code == 0
    assert found["changes"] == [
        {"path": "routes.r.candidates", "before": ["one"], "after": ["two"]},
        {"path": "routes.r.timeout_s", "before": 5.0, "after": None},
        {"path": "tenants.b", "before": None, "after": {}},
    ]
    assert run(capsys, "diff", live, "--live", live)[1]["changes"] == []


def test_money_in_a_diff_is_dollars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = write(tmp_path, "tenants: {acme: {limits: {budget_month: 12.5}}}")
    changes = run(capsys, "diff", new, "--live", tmp_path / "nowhere")[1]["changes"]
    assert changes == [{"path": "tenants.acme.limits.budget_month", "before": None, "after": "12.50"}]


def test_a_wrong_file_in_force_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, "diff", write(tmp_path, "{}"), "--live", write(tmp_path, "x: 1", "live"))
    assert code == 1
    assert found["problems"] == ["in force is a wrong file: x: Extra inputs are not permitted"]


def test_the_local_files_fit_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    local = ROOT / "deploy/local"
    assert run(capsys, "check", local / "gateway.yaml", "--catalogue", local / "catalogue.yaml")[0] == 0
