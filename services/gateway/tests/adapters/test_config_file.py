"""The configuration file: what it may say, what is said of its mistakes, and how its changes are noticed."""

import os
from pathlib import Path

import pytest
from gateway.adapters.config_file import ConfigurationFile, parse
from gateway.core.accounts import Limits, Priority
from gateway.core.configuration import Configuration, SloTarget, TenantDeclaration, mistakes
from gateway.core.cooldowns import CooldownPolicy
from gateway.core.live_configuration import BadConfiguration
from gateway.core.models import Catalogue, ModelCard, Task
from gateway.core.routes import Route
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
GOOD = """
tenants:
  acme:
    region: eu
    models: ["smart", "big", "rag:*"]
    highest_priority: standard
    limits:
      {requests_per_minute: 600, tokens_per_minute: null, concurrent_requests: 0, budget_day: 12.5,
       budget_month: "99.000000001"}
    projects:
      search: {limits: {budget_day: 0.1}, models: ["smart"]}
      other: {}
  umbrella: {}
routes:
  smart:
    candidates: [big, small]
    timeout_s: 30
    attempt_timeout_s: 2.5
    fallback_on_refusal: true
    slo: {availability: 0.99, latency_ms: 800, latency_share: 0.9}
  big: {candidates: [big]}
oidc:
  corporate:
    issuer: https://login.example.com
    audience: penstock
    jwks_url: https://login.example.com/keys
    algorithms: [RS256, ES256]
    skew_s: 10
    tenant: acme
    project: search
    role_claim: roles
    roles: {users: member}
    scopes: [models]
    priority: batch
slo: {latency_ms: 1500}
admission: {least_running: 4, most_running: 100, first_running: 20, waiting: {batch: 10}}
cooldown: {failures: 3, window_s: 2, longest_s: 30}
limits: {when_away: closed, processes: 3, timeout_ms: 20}
ledger: {retention_days: 30}
"""
WRONG = [
    ("region: eu", "regin: eu", "tenants.acme.regin: Extra inputs are not permitted"),
    ("region: eu", "region: 'E U'", "tenants.acme.region: has to be"),
    ("region: eu", "region: null", "tenants.acme.region: Input should be a valid string"),
    (
        "requests_per_minute: 600",
        "requests_per_minute: -1",
        "tenants.acme.limits.requests_per_minute: Input should be greater",
    ),
    (
        "requests_per_minute: 600",
        "requests_per_minute: 0.5",
        "tenants.acme.limits.requests_per_minute: Input should be a valid int",
    ),
    (
        "requests_per_minute: 600",
        "requests_per_minute: 600.0",
        "limits.requests_per_minute: Input should be a valid int",
    ),
    (
        "requests_per_minute: 600",
        "requests_per_minute: true",
        "limits.requests_per_minute: Input should be a valid int",
    ),
    (
        "requests_per_minute: 600",
        "requests_per_minute: '600'",
        "limits.requests_per_minute: Input should be a valid int",
    ),
    (
        "requests_per_minute: 600",
        "requests_per_minute: 1e999999999",
        "limits.requests_per_minute: Input should be a valid int",
    ),
    ("requests_per_minute: 600", f"requests_per_minute: {10**30}", "limits.requests_per_minute: Input should be less"),
    ("budget_day: 12.5", "budget_day: -12.5", "tenants.acme.limits.budget_day: an amount of dollars is 0 or more"),
    ("budget_day: 12.5", "budget_day: 0.0000000001", "limits.budget_day: an amount has at most nine decimals"),
    ("budget_day: 12.5", "budget_day: 1e99", "limits.budget_day: an amount is at most"),
    ("budget_day: 12.5", "budget_day: 9000000.01", "limits.budget_day: an amount is at most 9000000.00 dollars"),
    ("budget_day: 12.5", "budget_day: much", "limits.budget_day: an amount is a decimal number of dollars"),
    ("budget_day: 12.5", "budget_day: [1]", "limits.budget_day: an amount is a decimal number of dollars"),
    ("budget_day: 12.5", "budget: 12.5", "tenants.acme.limits.budget: Extra inputs are not permitted"),
    ("budget_day: 0.1", "budget_day: 13", "tenants.acme.projects.search.limits.budget_day: can never bind"),
    ("  umbrella: {}", "  Umbrella: {}", "tenants.Umbrella: the id has to be 1 to 64 of a-z"),
    ("other: {}", "'o/o': {}", "tenants.acme.projects.o/o: the id has to be"),
    ("other: {}", "other: {region: eu}", "tenants.acme.projects.other.region: Extra inputs are not permitted"),
    ('models: ["smart"]', 'models: [""]', "tenants.acme.projects.search.models[0]: has to be a model's name"),
    ('models: ["smart"]', 'models: ["[s]"]', "tenants.acme.projects.search.models[0]: has to be a model's name"),
    ('models: ["smart"]', "models: smart", "tenants.acme.projects.search.models: Input should be a valid list"),
    ("highest_priority: standard", "highest_priority: 2", "tenants.acme.highest_priority: Input should be"),
    ("candidates: [big, small]", "candidates: []", "routes.smart.candidates: List should have at least 1 item"),
    ("candidates: [big, small]", "candidates: [big, big]", "routes.smart.candidates[1]: 'big' is named before"),
    ("candidates: [big, small]", "candidates: [big]", "routes.smart.fallback_on_refusal: has no effect"),
    ("candidates: [big, small]", "candidates: [big]", "routes.smart.attempt_timeout_s: has no effect"),
    (
        "candidates: [big, small]",
        "candidates: [big, 'rag:x']",
        "routes.smart.candidates[1]: String should match pattern",
    ),
    ("attempt_timeout_s: 2.5", "attempt_timeout_s: 30", "routes.smart.attempt_timeout_s: has no effect"),
    ("timeout_s: 30", "timeout_s: 0", "routes.smart.timeout_s: Input should be greater than 0"),
    ("timeout_s: 30", "timeout_s: 1e9999", "routes.smart.timeout_s: Input should be a finite number"),
    ("timeout_s: 30", "timeout_s: .nan", "routes.smart.timeout_s: Input should be a valid number"),
    ("  smart:\n", "  'rag:smart':\n", "routes.rag:smart: String should match pattern"),
    ("availability: 0.99", "availability: 1", "routes.smart.slo.availability: Input should be less than 1"),
    ("tenant: acme", "tenant: nobody", "oidc.corporate.tenant: no tenant 'nobody' is declared in this file"),
    (
        "tenant: acme",
        "tenant_claim: t, tenants: [acme, x]".replace(", t", "\n    t"),
        "oidc.corporate.tenants: no tenant 'x' is",
    ),
    ("tenant: acme", "tenant_claim: t\n    tenant: acme", "oidc.corporate: either tenant or tenant_claim is needed"),
    ("project: search", "project: serach", "oidc.corporate.project: tenant 'acme' has no project 'serach'"),
    ("https://login.example.com/keys", "http://login.example.com/keys", "oidc.corporate: jwks_url has to be https"),
    ("algorithms: [RS256, ES256]", "algorithms: [none]", "oidc.corporate: algorithms have to be of"),
    ("algorithms: [RS256, ES256]", "algorithms: [HS256]", "oidc.corporate: algorithms have to be of"),
    ("roles: {users: member}", "roles: {users: king}", "oidc.corporate: unknown roles: king"),
    ("scopes: [models]", "scopes: [modles]", "oidc.corporate: unknown scopes: modles"),
    ("skew_s: 10", "skew_s: 1000", "oidc.corporate: skew_s has to be"),
    ("least_running: 4", "least_running: 101", "admission.least_running: is more than most_running"),
    ("first_running: 20", "first_running: 3", "admission.first_running: is not between"),
    ("waiting: {batch: 10}", "waiting: {bulk: 10}", "admission.waiting.bulk: Extra inputs are not permitted"),
    ("longest_s: 30", "longest_s: 1", "cooldown.longest_s: is less than window_s"),
    ("when_away: closed", "when_away: open", "limits.when_away: Input should be 'local' or 'closed'"),
    ("retention_days: 30", "retention_days: 0", "ledger.retention_days: Input should be greater"),
    ("ledger:", "legder:", "legder: Extra inputs are not permitted"),
    ("umbrella: {}", "acme: {}", "the key 'acme' is there twice"),
    ("region: eu", "region: &r eu", "anchors and aliases are not allowed"),
]
CARDS = [
    ModelCard("big", Task.GENERATE, region="eu"),
    ModelCard("small", Task.GENERATE, region="us"),
    ModelCard("encoder", Task.EMBED, region="eu", digest="sha256:1"),
    ModelCard("other-encoder", Task.EMBED, region="eu", digest="sha256:2"),
    ModelCard("same-encoder", Task.EMBED, region="us", digest="sha256:1"),
    ModelCard("new-encoder", Task.EMBED, region="eu"),
    ModelCard("tensors", Task.TENSOR, region="eu"),
    ModelCard("more-tensors", Task.TENSOR, region="eu"),
]


def read(text: str) -> Configuration:
    return parse(text.encode())[1]


def test_reads_everything_exactly() -> None:
    found = read(GOOD)
    acme = found.tenants["acme"]
    assert acme.limits == Limits(600, None, 0, 12_500_000_000, 99_000_000_001)
    assert (acme.region, acme.models, acme.highest_priority) == ("eu", ("smart", "big", "rag:*"), Priority.STANDARD)
    assert acme.projects["search"].limits == Limits(budget_day_nanos=100_000_000)
    assert acme.projects["search"].models == ("smart",)
    assert acme.projects["other"].models is None
    assert found.tenants["umbrella"] == TenantDeclaration("umbrella")
    assert found.routes["smart"] == Route("smart", ("big", "small"), True, 30, 2.5)
    assert found.slo_by_route == {"smart": SloTarget(0.99, 800, 0.9)}
    assert found.slo == SloTarget(latency_ms=1500)
    assert found.slo_targets == {"smart": SloTarget(0.99, 800, 0.9), "big": SloTarget(latency_ms=1500)}
    issuer = found.oidc["corporate"]
    assert (issuer.tenant, issuer.project, issuer.priority) == ("acme", "search", Priority.BATCH)
    assert issuer.algorithms == {"RS256", "ES256"}
    assert issuer.scopes == {"models"}
    assert issuer.roles == {"users": "member"}
    assert (found.admission.least_running, found.admission.most_running, found.admission.first_running) == (4, 100, 20)
    waiting = {Priority.INTERACTIVE: 256, Priority.STANDARD: 256, Priority.BATCH: 10}
    assert found.admission.waiting == waiting
    assert found.cooldown == CooldownPolicy(failures=3, window_s=2, longest_s=30)
    assert (found.limits.when_away, found.limits.processes, found.limits.timeout_ms) == ("closed", 3, 20)
    assert found.ledger.retention_days == 30
    assert len(found.digest) == 64


def test_an_empty_object_is_the_defaults() -> None:
    found = read("{}")
    assert (found.tenants, found.routes, found.oidc) == ({}, {}, {})
    assert found == Configuration(digest=found.digest)


@pytest.mark.parametrize(
    ("old", "new", "message"), WRONG, ids=[f"{new[:40]} {message[:30]}" for _, new, message in WRONG]
)
def test_a_mistake_is_told_with_the_path_of_its_field(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(BadConfiguration) as caught:
        read(GOOD.replace(old, new, 1))
    assert message in "\n".join(caught.value.lines)


def test_all_mistakes_are_told_at_once_and_no_more_than_can_be_read() -> None:
    with pytest.raises(BadConfiguration) as caught:
        read(GOOD.replace("600", "-6").replace("timeout_s: 30", "timeout_s: -1").replace("failures: 3", "failures: 0"))
    assert len(caught.value.lines) == 3
    with pytest.raises(BadConfiguration) as caught:
        read("routes: {" + ", ".join(f"r{number}: 1" for number in range(900)) + "}")
    assert len(caught.value.lines) == 100


@pytest.mark.parametrize("text", ["", "# nothing", "[]", "7", "null", "a", "tenants: []", "tenants: {acme: null}"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(BadConfiguration):
        read(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_any_value_in_any_place_is_a_named_mistake_and_never_a_crash(value: object) -> None:
    for field in ("tenants", "routes", "oidc", "slo", "admission", "cooldown", "limits", "ledger"):
        with pytest.raises(BadConfiguration) as caught:
            read(f"{field}: {{x: {_yaml(value)}}}")
        assert caught.value.lines


WORDS = GOOD.split(" ")
PLACES = [index for index, word in enumerate(WORDS) if word.strip()]
SCRAPS = ("", "null", "-1", "{}", "[]", "1e9999", "'", "http://[", "https://h:x", "[[1]]", "~", "\t", "\u2028")


@given(st.sampled_from(PLACES), st.sampled_from(SCRAPS), st.booleans())
@settings(max_examples=500)
def test_any_scrap_for_any_word_is_a_named_mistake_or_right(place: int, scrap: str, cut: bool) -> None:
    ending = "" if cut else WORDS[place][-1]
    try:
        read(" ".join([*WORDS[:place], scrap + ending, *WORDS[place + 1 :]]))
    except BadConfiguration as error:
        assert error.lines
        assert all(line.strip() for line in error.lines)


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(each):08x}" for each in value if not 0xD800 <= ord(each) < 0xE000) + '"'
    return {None: "null", True: "true", False: "false"}.get(value, str(value))  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[big, small]", "[big, smal]", "routes.smart.candidates[1]: no model 'smal' is in the catalogue"),
        ("[big, small]", "[big, smart]", "routes.smart.candidates[1]: no model 'smart' is in the catalogue"),
        ("[big, small]", "[big, encoder]", "routes.smart.candidates: models of different tasks"),
        ("[big, small]", "[tensors, more-tensors]", "routes.smart.candidates: only models that generate or encode"),
        ("[big, small]", "[encoder, other-encoder]", "routes.smart.candidates[1]: 'other-encoder' gives other vectors"),
        (
            "[big, small]",
            "[new-encoder, encoder, same-encoder, other-encoder]",
            "routes.smart.candidates[3]: 'other-encoder' gives other vectors than 'encoder'",
        ),
        ("region: eu", "region: eu-west", "tenants.acme.region: no model of the catalogue runs in 'eu-west'"),
        ('"smart", "big"', '"smart", "bigg"', "tenants.acme.models[1]: 'bigg' matches no model and no route"),
        ('models: ["smart"]', 'models: ["small"]', "tenants.acme.projects.search.models[0]: 'small' matches no model"),
    ],
)
def test_what_leads_nowhere_in_the_catalogue_is_told(old: str, new: str, message: str) -> None:
    catalogue = Catalogue.of(CARDS)
    assert mistakes(read(GOOD), catalogue) == []
    assert old in GOOD
    changed = read(GOOD.replace(old, new, 1))
    assert any(line.startswith(message) for line in mistakes(changed, catalogue)), mistakes(changed, catalogue)
    assert mistakes(changed, None) == []


def encoding(*candidates: str) -> list[str]:
    """Return what is wrong with a route over encoders."""
    return mistakes(read(f"routes: {{vectors: {{candidates: [{', '.join(candidates)}]}}}}"), Catalogue.of(CARDS))


def test_encoders_of_one_digest_may_stand_in_for_each_other() -> None:
    assert encoding("encoder", "same-encoder") == []
    assert encoding("same-encoder", "encoder") == []
    assert encoding("other-encoder") == []
    assert encoding("encoder", "new-encoder") == [], (
        "what it gives is known once it is loaded; it is not asked till then"
    )
    assert encoding("encoder", "other-encoder", "same-encoder") == [
        "routes.vectors.candidates[1]: 'other-encoder' gives other vectors than 'encoder'; mixed they mean nothing"
    ]


def test_a_refusal_of_an_encoder_there_is_not() -> None:
    text = "routes: {vectors: {candidates: [encoder, same-encoder], fallback_on_refusal: true}}"
    assert mistakes(read(text), Catalogue.of(CARDS)) == [
        "routes.vectors.fallback_on_refusal: has no effect, an encoder refuses nothing"
    ]


def test_the_local_file_is_right_with_its_examples_too() -> None:
    text = (ROOT / "deploy/local/gateway.yaml").read_text()
    assert "default-chat" in read(text).routes
    head, _, examples = text.partition("# tenants:\n")
    lines = [
        line.removeprefix("# ") for line in ("# tenants:\n" + examples).splitlines() if not line.startswith("# Which")
    ]
    found = read(head + "\n".join(lines))
    assert found.tenants["acme"].limits.budget_month_nanos == 250 * 10**9
    assert found.oidc["corporate"].tenant == "acme"


async def test_a_change_counts_when_it_has_stood_for_a_poll(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    file = ConfigurationFile(path)
    first = file.first()
    assert await file.latest() is None
    path.write_text("tenants: {acme: {}}")  # a writer who is half done
    assert await file.latest() is None
    path.write_text("tenants: {acme: {}, umbrella: {}}")
    assert await file.latest() is None
    latest = await file.latest()
    assert latest is not None
    assert set(latest.tenants) == {"acme", "umbrella"}
    assert latest.digest != first.digest
    assert await file.latest() is None


async def test_a_wrong_file_is_told_once_and_the_old_content_is_a_change_again(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    file = ConfigurationFile(path)
    file.first()
    path.write_text("tenants: 7")
    assert await file.latest() is None
    with pytest.raises(BadConfiguration):
        await file.latest()
    assert await file.latest() is None
    path.write_text(GOOD)
    assert await file.latest() is None
    assert await file.latest() is not None


async def test_a_file_that_goes_is_told_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    file = ConfigurationFile(path)
    file.first()
    path.rename(tmp_path / "aside")
    for _ in range(3):
        with pytest.raises(BadConfiguration, match="cannot be read"):
            await file.latest()
    (tmp_path / "aside").rename(path)
    assert await file.latest() is None
    assert await file.latest() is not None


@pytest.mark.parametrize("kind", ["directory", "missing", "pipe"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "gateway.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(BadConfiguration):
        ConfigurationFile(path).first()
