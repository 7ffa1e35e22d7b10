"""`penstock models` changes versions and roles at a running pool, and shows them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inference.api.version_servicer import version_service
from inference.core.registry import Registry
from inference.core.shadow import Comparison, Difference
from inference.core.version_ports import Imported
from inference_fakes import FakeGenerator, generating
from inference_version_fakes import NOW, FakeModelRegistry, FakeVersionStore, digest, running
from penstock_cli.client import CallFailed
from penstock_cli.main import app
from servicekit.testing import PRIVATE_KEY_PEM, serving
from typer.testing import CliRunner


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVersionStore]:
    """A pool with `chat` and what may stand in for it, in a thread of its own."""
    loop, kept, address = asyncio.new_event_loop(), FakeVersionStore(), [""]
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        served = [running(generating(FakeGenerator(), f"{name}"), number) for number, name in enumerate(ENTRIES)]
        elsewhere = FakeModelRegistry({"models:/chat@best": Imported("9", "", "mlflow models:/chat@best")})
        registry = Registry(kept, {each.model.name: each for each in served}, lambda: NOW)
        async with serving(version_service(registry, kept, elsewhere)) as address[0]:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    (tmp_path / "identity.pem").write_bytes(PRIVATE_KEY_PEM)
    monkeypatch.setenv("PENSTOCK_POOL", address[0])
    monkeypatch.setenv("PENSTOCK_IDENTITY_KEY", str(tmp_path / "identity.pem"))
    monkeypatch.setenv("COLUMNS", "200")
    yield kept
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


ENTRIES = ("chat", "chat-v2", "chat-v3")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["models", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def registered(*names: str) -> None:
    """Register versions that passed; the first is run by chat-v2, the next by chat-v3."""
    for name, entry in zip(names, ENTRIES[1:], strict=False):
        run("register", "chat", "--version", name, "--served-by", entry)
        run("evaluate", "chat", name, "--passed", "--report", "see there")


def test_a_version_goes_from_registered_to_champion_and_back(store: FakeVersionStore) -> None:
    registered("2", "3")
    assert "champion the catalogue's own entry, canary 2 10 % (revision 1)" in run(
        "canary", "chat", "2", "--weight", "10"
    )
    assert "canary 2 25 %" in run("canary", "chat", "2", "--weight", "25", "--split-by", "tenant")
    assert "champion 2 (revision 3)" in run("promote", "chat", "2")
    assert "champion 2, canary 3 5 %" in run("canary", "chat", "3", "--weight", "5")
    assert "chat: champion 2 (revision 5)" in run("rollback", "chat")
    assert "champion 3 (revision 6)" in run("promote", "chat", "3")
    assert "champion 2 (revision 7)" in run("rollback", "chat")
    assert store.known["chat"].roles.split_by.value == "tenant"


def test_the_first_promotion_can_be_rolled_back_to_the_catalogues_own_entry(store: FakeVersionStore) -> None:
    registered("2")
    run("promote", "chat", "2")
    assert "champion the catalogue's own entry" in run("rollback", "chat")


def test_without_anything_to_roll_back_that_is_said(store: FakeVersionStore) -> None:
    registered("2")
    with pytest.raises(CallFailed, match="neither a canary nor a former champion"):
        run("rollback", "chat")


def test_a_shadow_begins_is_reported_on_and_ends(store: FakeVersionStore) -> None:
    registered("2")
    assert "shadow 2 50 %" in run("shadow", "chat", "2", "--percent", "50")
    store.compared.append(Comparison("chat", "", "2", NOW, Difference(same=False, max_abs_diff=0.25), 1.0, 2.0))
    assert "1 mirrored, 0 the same, 0 failed, largest difference 0.25" in run("report", "chat", "2")
    assert told("report", "chat", "2")["max_abs_diff"] == 0.25
    assert "shadow" not in run("shadow", "chat", "2", "--percent", "0")


def test_a_retired_version_is_not_promoted_until_it_is_named_again(store: FakeVersionStore) -> None:
    registered("2", "3")
    run("canary", "chat", "2", "--weight", "10")
    run("retire", "chat", "2")
    assert store.known["chat"].roles.retired == {"2"}
    run("promote", "chat", "2")
    assert store.known["chat"].roles.retired == frozenset()
    with pytest.raises(CallFailed, match="2 is the champion of chat"):
        run("retire", "chat", "2")


def test_versions_and_changes_are_shown(store: FakeVersionStore) -> None:
    run("register", "chat", "--version", "2", "--served-by", "int8=chat-v2", "--served-by", "fp32=chat-v3",
        "--cost-nanos", "30", "--cost-nanos", "90", "--source", "ci")  # fmt: skip
    run("evaluate", "chat", "2", "--failed", "--variant", "int8")
    lines = run("versions", "chat").splitlines()
    assert lines[1].split()[:6] == ["2", "int8", "chat-v2", "failed", "yes", digest(1)[:19]]
    assert lines[2].split()[:3] == ["fp32", "chat-v3", "pending"]
    version = told("versions", "chat")["versions"][0]
    assert [each["cost_nanos"] for each in version["variants"]] == ["30", "90"]
    assert [each.split()[4] for each in run("changes", "chat").splitlines()[1:]] == ["evaluate", "register"]
    assert [each["action"] for each in told("changes", "-n", "1")["changes"]] == ["evaluate"]


def test_a_version_is_imported(store: FakeVersionStore) -> None:
    assert f"chat 9 {digest(1)}" in run("import", "chat", "models:/chat@best", "--served-by", "chat-v2")


def test_what_the_pool_refuses_is_told(store: FakeVersionStore) -> None:
    registered("2")
    with pytest.raises(CallFailed, match="from 0 to 100"):
        run("canary", "chat", "2", "--weight", "-5")
    with pytest.raises(CallFailed, match="no version '7'"):
        run("promote", "chat", "7")
    assert "key, tenant, request" in run("canary", "chat", "2", "--weight", "5", "--split-by", "mood")
    assert "once for each" in run("register", "chat", "--served-by", "chat", "--cost-nanos", "1", "--cost-nanos", "2")
