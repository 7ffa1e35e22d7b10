"""Registering, judging and giving roles, alone and against other processes."""

import asyncio

import pytest
from inference.core.catalogue import Task
from inference.core.registry import DigestMismatch, Judged, NewVersion, NotServable, Registry
from inference.core.served_model import ServedModel
from inference.core.traffic import Candidate, Route
from inference.core.versions import Canary, RolesChanged, RolesWish, Variant, Verdict, VersionExists
from inference_fakes import FakeGenerator, generating, model
from inference_version_fakes import NOW, FakeVersionStore, assigned, digest, registered, running
from servicekit.errors import Conflict, InvalidInput, NotFound, Unavailable
from servicekit.testing import eventually


def entries() -> dict[str, ServedModel]:
    """Two entries and one in the Netherlands."""
    served = [
        running(generating(FakeGenerator(), "chat", region="eu"), 1),
        running(generating(FakeGenerator(), "chat-v2", region="eu"), 2),
        running(generating(FakeGenerator(), "chat-nl", region="nl"), 3),
        running(ServedModel(model("rows", Task.TENSOR)), 4),
    ]
    return {each.model.name: each for each in served}


def registry(store: FakeVersionStore | None = None, known: dict[str, ServedModel] | None = None) -> Registry:
    return Registry(store or FakeVersionStore(), known or entries(), lambda: NOW)


def new(name: str = "2", entry: str = "chat-v2", digest_: str = "", of: str = "chat") -> NewVersion:
    return NewVersion(of, name, [Variant("default", entry, digest_)])


async def test_a_version_takes_its_digest_from_the_entry_that_runs_it() -> None:
    versions = registry()
    made = await versions.register(new(), "root")
    assert (made.digest, made.variants[0].digest, made.registered_by, made.registered_at) == (
        digest(2),
        digest(2),
        "root",
        NOW,
    )
    assert versions.version("chat", "2") == made


async def test_the_same_version_again_is_no_change_and_another_is_refused() -> None:
    store = FakeVersionStore()
    versions = registry(store)
    made = await versions.register(new(), "root")
    assert await versions.register(new(digest_=digest(2)), "somebody else") == made
    assert len(store.journal) == 1
    with pytest.raises(VersionExists) as caught:
        await versions.register(new(entry="chat"), "root")
    assert caught.value.field == "version"


@pytest.mark.parametrize(
    ("wanted", "field", "reason"),
    [
        (new(digest_=digest(7)), "variants[0].digest", "digest_mismatch"),
        (new(entry="nobody"), "variants[0].served_by", "unknown_entry"),
        (new(entry="chat-nl"), "variants[0].served_by", "entry_differs"),
        (new(entry="rows"), "variants[0].served_by", "entry_differs"),
        (new(name="a b"), "version", "invalid_input"),
        (new(of="nobody"), "model", "model_not_found"),
    ],
)
async def test_what_cannot_be_registered_is_refused_by_field(wanted: NewVersion, field: str, reason: str) -> None:
    store = FakeVersionStore()
    with pytest.raises((InvalidInput, NotFound)) as caught:
        await registry(store).register(wanted, "root")
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert store.journal == []


async def test_the_digest_has_to_be_stated_while_the_entry_does_not_tell_it() -> None:
    served = entries()
    running(served["chat-v2"], 2, ready=False)
    served["chat-v2"].state = type(served["chat-v2"].state)(ready=False, reason="not_loaded")
    versions = registry(known=served)
    with pytest.raises(DigestMismatch):
        await versions.register(new(), "root")
    assert (await versions.register(new(digest_=digest(8)), "root")).digest == digest(8)


async def test_fewer_capabilities_than_the_model_promises_will_not_do() -> None:
    served = entries() | {
        "small": running(generating(FakeGenerator(), "small", region="eu", capabilities=frozenset()), 5)
    }
    with pytest.raises(InvalidInput) as caught:
        await registry(known=served).register(new(entry="small"), "root")
    assert caught.value.reason == "entry_differs"


async def test_roles_are_changed_only_by_who_has_read_them() -> None:
    versions = registry()
    await registered(versions, "chat", "2", "chat-v2")
    roles = await versions.assign("chat", 0, RolesWish(canaries=[Canary("2", 10)]), "root")
    assert roles.revision == 1
    with pytest.raises(RolesChanged):
        await versions.assign("chat", 0, RolesWish("2"), "root")
    assert versions.known("chat").roles == roles


async def test_a_write_of_another_process_in_between_is_seen() -> None:
    store = FakeVersionStore()
    served = entries()
    ours, theirs = registry(store, served), registry(store, served)
    await registered(ours, "chat", "2", "chat-v2")

    async def interrupt() -> None:
        await theirs.assign("chat", 0, RolesWish("2"), "them")

    store.interrupt = interrupt
    with pytest.raises(RolesChanged):
        await ours.assign("chat", 0, RolesWish(canaries=[Canary("2", 10)]), "us")
    assert ours.known("chat").roles.champion == "2"
    assert [each.by for each in store.journal if each.action == "assign"] == ["them"]


async def test_and_does_not_stop_a_write_that_it_has_nothing_to_do_with() -> None:
    store = FakeVersionStore()
    served = entries()
    ours, theirs = registry(store, served), registry(store, served)

    async def interrupt() -> None:
        await theirs.register(new("3"), "them")

    store.interrupt = interrupt
    await ours.register(new("2"), "us")
    assert sorted(ours.known("chat").versions) == ["2", "3"]


async def test_one_of_twenty_who_want_to_change_the_same_roles_does() -> None:
    store, served = FakeVersionStore(), entries()
    registries = [registry(store, served) for _ in range(20)]
    await registered(registries[0], "chat", "2", "chat-v2")
    done = await asyncio.gather(
        *(each.assign("chat", 0, RolesWish("2"), f"process-{number}") for number, each in enumerate(registries)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, RolesChanged) for each in done) == 19


async def test_the_champions_last_variant_that_passed_cannot_fail_under_its_callers() -> None:
    versions = registry()
    await registered(versions, "chat", "2", "chat-v2", "chat")
    await assigned(versions, "chat", champion="2")
    await versions.judge("chat", "2", Judged("v0", Verdict.FAILED), "root")
    route = versions.traffic.routes["chat"]
    assert route.champion == (Candidate("2", "v1", "chat", digest(1)),)
    with pytest.raises(Conflict) as caught:
        await versions.judge("chat", "2", Judged("v1", Verdict.FAILED), "root")
    assert caught.value.reason == "last_passed_variant"


async def test_a_canary_that_fails_its_evaluation_gets_nobody_any_more() -> None:
    versions = registry()
    await registered(versions, "chat", "2", "chat-v2")
    await assigned(versions, "chat", canaries=[Canary("2", 100)])
    assert versions.traffic.routes["chat"].canaries == ((Candidate("2", "v0", "chat-v2", digest(2)),),)
    await versions.judge("chat", "2", Judged("v0", Verdict.FAILED), "root")
    assert versions.traffic.routes["chat"].canaries == ((),)


async def test_a_shadow_needs_no_evaluation_but_none_that_failed() -> None:
    versions = registry()
    await registered(versions, "chat", "2", "chat-v2", passed=False)
    await assigned(versions, "chat", shadow="2", shadow_percent=50)
    assert [each.served_by for each in versions.traffic.routes["chat"].shadow] == ["chat-v2"]
    await versions.judge("chat", "2", Judged("v0", Verdict.FAILED), "root")
    assert "chat" not in versions.traffic.routes


@pytest.mark.parametrize(
    ("version", "variant", "reason"), [("9", "v0", "version_not_found"), ("2", "v9", "variant_not_found")]
)
async def test_a_verdict_on_what_is_not_there(version: str, variant: str, reason: str) -> None:
    versions = registry()
    await registered(versions, "chat", "2", "chat-v2")
    with pytest.raises(NotFound) as caught:
        await versions.judge("chat", version, Judged(variant, Verdict.PASSED), "root")
    assert caught.value.reason == reason
    with pytest.raises(InvalidInput):
        await versions.judge("chat", "2", Judged("v0", Verdict.PASSED, "x" * 2_001), "root")


async def test_what_another_process_changes_is_in_force_within_seconds() -> None:
    store, served = FakeVersionStore(), entries()
    ours, theirs = registry(store, served), registry(store, served)
    watching = asyncio.ensure_future(theirs.watch())
    await registered(ours, "chat", "2", "chat-v2")
    await assigned(ours, "chat", champion="2")
    await eventually(lambda: "chat" in theirs.traffic.routes, timeout_s=5)
    loads = store.loads
    await asyncio.sleep(0)
    await theirs.refresh()
    assert store.loads == loads, "what has not changed is not read again"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_while_the_store_is_away_the_latest_roles_stay(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeVersionStore()
    versions = registry(store)
    await registered(versions, "chat", "2", "chat-v2")
    await assigned(versions, "chat", champion="2")
    store.away = True
    watching = asyncio.ensure_future(versions.watch())
    await eventually(lambda: "cannot be read" in caplog.text)
    assert versions.traffic.routes["chat"].champion
    with pytest.raises(Unavailable):
        await assigned(versions, "chat", champion="")
    assert versions.traffic.routes["chat"].champion
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_roles_of_a_model_that_left_the_catalogue_do_no_harm() -> None:
    store, served = FakeVersionStore(), entries()
    first = registry(store, served)
    await registered(first, "chat", "2", "chat-v2")
    await assigned(first, "chat", champion="2")
    left = registry(store, {"rows": served["rows"]})
    await left.refresh()
    assert left.traffic.routes == {}
    with pytest.raises(NotFound):
        left.known("chat")


async def test_a_model_without_versions_has_no_route() -> None:
    versions = registry()
    await registered(versions, "chat", "2", "chat-v2")
    assert versions.traffic.routes == {}
    await assigned(versions, "chat", champion="2")
    assert versions.traffic.routes["chat"] == Route("chat", champion=(Candidate("2", "v0", "chat-v2", digest(2)),))


@pytest.mark.parametrize(("number", "ready"), [(2, False), (9, True)])
async def test_who_cannot_answer_now_does_not_become_champion(number: int, ready: bool) -> None:
    served = entries()
    versions = registry(known=served)
    await registered(versions, "chat", "2", "chat-v2")
    running(served["chat-v2"], number, ready=ready)
    with pytest.raises(NotServable) as caught:
        await assigned(versions, "chat", champion="2")
    assert (caught.value.field, caught.value.reason) == ("champion", "not_servable")
    await assigned(versions, "chat", canaries=[Canary("2", 10)])
    running(served["chat-v2"], 2)
    await assigned(versions, "chat", champion="2")
    running(served["chat"], 1, ready=False)
    with pytest.raises(NotServable):
        await assigned(versions, "chat", champion="")
    running(served["chat-v2"], 2, ready=False)
    await assigned(versions, "chat", champion="2", shadow_percent=0)
