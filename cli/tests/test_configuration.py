"""`penstock config`: checks, compares and puts in force."""

import json
import stat
from pathlib import Path

import pytest
from penstock_cli.main import app
from penstock_cli.settings import ROOT, Settings
from penstock_cli.stack.live_configuration import ensure_live_file, live_file
from penstock_cli.stack.table import StackError
from typer.testing import CliRunner, Result

RIGHT = "routes: {smart: {candidates: [extractive-reader]}}"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def config(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, arguments)])


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_right_file_is_said_to_be_right_and_a_wrong_one_where_it_is_wrong(tmp_path: Path, state: Path) -> None:
    assert config("check", write(tmp_path, RIGHT)).exit_code == 0
    wrong = config("check", write(tmp_path, RIGHT.replace("extractive", "exctractive")))
    assert isinstance(wrong.exception, StackError)
    assert "routes.smart.candidates[0]: no model 'exctractive-reader' is in the catalogue" in str(wrong.exception)


def test_scripts_get_the_mistakes_as_json(tmp_path: Path, state: Path) -> None:
    done = config("check", write(tmp_path, "limtis: {}"), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"problems": ["limtis: Extra inputs are not permitted"]}


def test_a_diff_shows_what_would_be_added_changed_and_removed(tmp_path: Path, state: Path) -> None:
    state.mkdir()
    (state / "gateway.yaml").write_text(RIGHT.replace("]}", "], timeout_s: 3}") + "\ntenants: {a: {region: ''}}")
    changed = RIGHT.replace("]}", "], timeout_s: 4}") + "\ntenants: {b: {limits: {budget_day: 1}}}"
    lines = config("diff", write(tmp_path, changed)).stdout.splitlines()
    assert lines == [
        "~ routes.smart.timeout_s: 3.0 -> 4.0",
        "- tenants.a: {}",
        '+ tenants.b.limits.budget_day: "1.00"',
    ]
    assert "Nothing would change" in config("diff", state / "gateway.yaml").stdout


def test_apply_puts_a_right_file_in_force_whole(tmp_path: Path, state: Path) -> None:
    assert config("apply", write(tmp_path, RIGHT)).exit_code == 0
    assert (state / "gateway.yaml").read_text() == RIGHT
    assert stat.S_IMODE((state / "gateway.yaml").stat().st_mode) == 0o600
    assert [each.name for each in state.iterdir()] == ["gateway.yaml"]


def test_apply_leaves_what_is_in_force_when_the_file_is_wrong(tmp_path: Path, state: Path) -> None:
    config("apply", write(tmp_path, RIGHT))
    failed = config("apply", write(tmp_path, "routes: 7"))
    assert isinstance(failed.exception, StackError)
    assert (state / "gateway.yaml").read_text() == RIGHT
    assert [each.name for each in state.iterdir()] == ["gateway.yaml"]


def test_the_sample_is_put_in_force_once(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path)
    ensure_live_file(settings)
    assert live_file(settings).read_text() == (ROOT / "deploy/local/gateway.yaml").read_text()
    live_file(settings).write_text(RIGHT)
    ensure_live_file(settings)
    assert live_file(settings).read_text() == RIGHT
