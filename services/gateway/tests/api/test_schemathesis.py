"""All that the OpenAPI page promises, under generated requests: no 5xx, nothing internal shown, shapes as promised."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.usage_sql import SqlUsage
from gateway.api.app import Operation, rest_app
from gateway.api.authentication import Authenticator
from gateway.api.server import RestServer, bind
from gateway.api.usage import UsageRoutes, usage_operations
from gateway.core.key_ring import KeyRing
from gateway.core.scopes import ALL_SCOPES
from gateway.core.usage import Usage
from gateway_account_fakes import FakeAccounts, new_key
from gateway_admin_fakes import running_office
from gateway_fakes import running
from gateway_ledger_fakes import NOON, database, settled
from gateway_version_fakes import FakeVersionService, versions_door
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from servicekit.identity import Minter
from servicekit.testing import PRIVATE_KEY_PEM, eventually

EXAMPLES = 25
"""Per operation and mode; the generator is seeded by the test, so each run sends the same."""
INTERNAL = re.compile(
    r"Traceback|\.py\b|File \"|0x[0-9a-f]{8}|site-packages|sqlite|asyncio|grpc|Exception|pydantic", re.IGNORECASE
)
NOT_LEFT_OPEN = frozenset({500, 501, 502, 504})
"""503 is an answer of its own: a generated model's name may be that of one that is asleep."""


PLACES = {
    "knowledge_base": "docs", "document": "d1", "model": "echo", "version": "1", "answer": "ans_1",
    "tenant": "acme", "project": "default",
}  # fmt: skip
NAMES = {
    "POST /v1/chat/completions": {"model": "writer"},
    "POST /v1/embeddings": {"model": "minilm-l6"},
    "POST /v1/ask": {"knowledge_base": "docs"},
}
"""What the fakes know: every second request is about it, or generated names would never be more than a 404."""


@asynccontextmanager
async def data_door(_: Path) -> AsyncIterator[tuple[str, str]]:
    async with running() as gateway:
        yield gateway.url, gateway.key


@asynccontextmanager
async def admin_door(_: Path) -> AsyncIterator[tuple[str, str]]:
    async with running_office() as office:
        yield office.url, office.root


@asynccontextmanager
async def usage_door(folder: Path) -> AsyncIterator[tuple[str, str]]:
    accounts = FakeAccounts()
    key, text = new_key(ALL_SCOPES)
    await accounts.add(key)
    async with AsyncExitStack() as opened:
        url = await opened.enter_async_context(database("sqlite", folder))
        await (await opened.enter_async_context(SqlLedger.open(url))).add([settled("a", NOON + 2, call_id="c1")])
        source = await opened.enter_async_context(SqlUsage.open(url))
        routes = UsageRoutes(Usage(source), clock=lambda: NOON + 60)
        ring, nothing = KeyRing(accounts), Any
        more = [Operation(*each) for each in usage_operations(routes)]
        app = rest_app(nothing, Authenticator(ring, Minter(PRIVATE_KEY_PEM)), ring.check, more=more)  # type: ignore[arg-type]
        listener = bind("127.0.0.1:0")
        rest = RestServer(app, listener, drain_s=1)
        tasks = await opened.enter_async_context(asyncio.TaskGroup())
        serving = tasks.create_task(rest.run_until_cancelled())
        await eventually(lambda: rest.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", text
        serving.cancel()


@asynccontextmanager
async def models_door(_: Path) -> AsyncIterator[tuple[str, str]]:
    async with versions_door(FakeVersionService()) as (url, (root, _boss)):
        yield url, root


def cases_of(operation: Any, mode: GenerationMode) -> list[Any]:
    """Return generated requests of an operation, the same ones each time."""
    made: list[Any] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        made.append(case)

    with suppress(Unsatisfiable):  # an operation without parameters has no wrong requests
        collect()
    return made


def about_what_there_is(case: Any) -> Any:
    """Return the request with names that the fakes know."""
    places = PLACES | ({"model": "org/writer"} if case.path.startswith("/v1/models") else {})
    case.path_parameters = {name: places.get(name, value) for name, value in (case.path_parameters or {}).items()}
    if isinstance(case.body, dict):
        case.body = case.body | NAMES.get(case.operation.label, {})
    return case


async def send(http: httpx.AsyncClient, case: Any, url: str) -> httpx.Response | None:
    """Send a generated request as it is; None when HTTP has no way to say it."""
    sent = case.as_transport_kwargs(base_url=url)
    known = {
        name: sent[name] for name in ("method", "url", "params", "json", "data", "files", "headers") if name in sent
    }
    try:
        made = requests.Request(**known).prepare()
        if case.meta.generation.mode is GenerationMode.POSITIVE:
            made.headers.pop("Penstock-Timeout-Ms", None)  # most of what it may be is too short for any answer
        headers = {**made.headers, "Authorization": http.headers["Authorization"]}
        return await http.request(made.method or "", made.url or "", headers=headers, content=made.body)
    except (httpx.InvalidURL, httpx.LocalProtocolError, requests.RequestException, UnicodeError, ValueError, TypeError):
        return None


def check(operation: Any, case: Any, response: httpx.Response) -> None:
    shown = f"{operation.label} {case.body!r:.300} {case.path_parameters} {case.query}"
    assert response.status_code not in NOT_LEFT_OPEN, f"{shown}: {response.text}"
    assert response.headers.get("x-request-id"), shown
    if response.status_code in {429, 503}:
        assert 1 <= int(response.headers["retry-after"]) <= 120, shown
    if response.status_code < 400:
        operation.validate_response(schemathesis.Response.from_any(response))
        return
    error = response.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert operation.path.startswith("/v2") == isinstance(error, str), shown
    assert isinstance(error, str) or error.keys() == {"message", "type", "param", "code"}, shown
    sent = repr((case.body, case.path_parameters, case.query, case.headers))
    found = INTERNAL.search(message)
    assert found is None or found[0] in sent, f"{shown}: {message}"


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("door", "paths"),
    [
        (data_door, r"/(v1|v2|healthz)"),
        (admin_door, r"/v1/admin/(tenants|keys|changes)"),
        (usage_door, r"/v1/(admin/)?usage"),
        (models_door, r"/v1/admin/models"),
    ],
    ids=["data", "admin", "usage", "models"],
)
async def test_every_operation_keeps_its_promises(tmp_path: Path, door: Any, paths: str, mode: GenerationMode) -> None:
    failed: dict[str, str] = {}
    tried, sent, good = 0, 0, set[str]()
    async with door(tmp_path) as (url, key), httpx.AsyncClient(timeout=20) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        page = (await http.get(f"{url}/openapi.json")).json()
        page["paths"] = {path: each for path, each in page["paths"].items() if re.match(paths, path)}
        for found in schemathesis.openapi.from_dict(page).get_all_operations():
            operation = found.ok()
            tried += 1
            for number, case in enumerate(await asyncio.to_thread(cases_of, operation, mode)):
                response = await send(http, about_what_there_is(case) if number % 2 else case, url)
                good |= {operation.label} if response is not None and response.is_success else set()
                sent += response is not None
                try:
                    if response is not None:
                        check(operation, case, response)
                except (AssertionError, KeyError, ValueError, schemathesis.errors.SchemathesisError) as error:
                    failed.setdefault(operation.label, f"{response.status_code if response else ''} {error}"[:1500])
        assert (await http.get(f"{url}/healthz/live")).status_code == 200
    assert not failed, "\n\n".join(failed.values())
    assert tried == len([1 for each in page["paths"].values() for verb in each if verb != "parameters"])
    assert sent > tried
    assert mode is not GenerationMode.POSITIVE or len(good) > tried / 2, good
