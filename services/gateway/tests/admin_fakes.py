"""A running administration: both doors over accounts in memory, and keys of everybody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
from gateway.api.admin import AdminRoutes, admin_operations
from gateway.api.admin_servicer import admin_service
from gateway.api.app import Operation, rest_app
from gateway.api.authentication import Authenticator
from gateway.api.server import RestServer, bind
from gateway.core.administration import Administration
from gateway.core.key_administration import KeyAdministration
from gateway.core.key_ring import KeyRing
from gateway.core.scopes import ALL_SCOPES, ROLES, TENANT_SCOPES
from gateway_account_fakes import FakeAccounts, new_key
from servicekit.identity import Minter
from servicekit.testing import PRIVATE_KEY_PEM, eventually, serving


@dataclass
class Office:
    """Both doors of administration over one store, and keys of everybody."""

    store: FakeAccounts
    url: str
    grpc_address: str
    root: str
    boss: str
    member: str
    rival: str

    def client(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=10)


@asynccontextmanager
async def running_office() -> AsyncIterator[Office]:
    """Run both doors on free ports."""
    store = FakeAccounts()
    texts = []
    for scopes, tenant in (
        (ALL_SCOPES, "acme"),
        (ROLES["tenant-admin"], "acme"),
        (TENANT_SCOPES, "acme"),
        (ROLES["tenant-admin"], "rival"),
    ):
        key, text = new_key(scopes, tenant=tenant)
        await store.add(key)
        texts.append(text)
    administration, keys = Administration(store), KeyAdministration(store)
    ring = KeyRing(store)
    authenticate = Authenticator(ring, Minter(PRIVATE_KEY_PEM))
    offered = [Operation(*each) for each in admin_operations(AdminRoutes(administration, keys))]
    app = rest_app(cast("Any", None), authenticate, ring.check, more=offered)
    listener = bind("127.0.0.1:0")
    rest = RestServer(app, listener, drain_s=1)
    async with AsyncExitStack() as opened:
        service = admin_service(administration, keys)
        address = await opened.enter_async_context(serving(service, authenticate=authenticate.enter, inner=False))
        tasks = await opened.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(rest.run_until_cancelled())
        await eventually(lambda: rest.started)
        yield Office(store, f"http://127.0.0.1:{listener.getsockname()[1]}", address, *texts)
        running.cancel()
