"""A running gateway as `main` puts it together, over fake services, with its books in memory and in a folder."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from gateway.adapters.model_cards import InferenceModelCards
from gateway.adapters.oip import OipTensors
from gateway.adapters.services import (
    EmbeddingEncoders,
    FeatureStoreFeatures,
    InferenceModels,
    OrchestratorPipelines,
    VectorSearchKnowledgeBases,
)
from gateway.api.app import Limits, Operation, rest_app
from gateway.api.authentication import Authenticator
from gateway.api.backends import Backends
from gateway.api.calls import Calls
from gateway.api.chat_rules import UnknownFields
from gateway.api.offered_models import OfferedModels
from gateway.api.oip_grpc import oip_service
from gateway.api.oip_rest import OipRoutes, oip_operations
from gateway.api.routed_chats import RoutedChats
from gateway.api.runs import MeteredRuns
from gateway.api.server import RestServer, bind
from gateway.api.servicer import gateway_service
from gateway.api.tensor_calls import TensorCalls
from gateway.core.cooldowns import CooldownPolicy, Cooldowns
from gateway.core.key_ring import KeyRing
from gateway.core.limit_ports import LimitStore
from gateway.core.models import Models
from gateway.core.routes import Route, Router
from gateway.core.scopes import TENANT_SCOPES
from gateway_account_fakes import FakeAccounts, new_key
from gateway_billing_fakes import Desk
from gateway_oip_fakes import CATALOGUE, FakePool, pool_service
from gateway_service_fakes import World, fake_services
from servicekit.identity import Minter
from servicekit.rpc import Channel
from servicekit.testing import PRIVATE_KEY_PEM, eventually, serving

LIMITS = Limits(max_body_bytes=1_000_000)


@dataclass
class Gateway:
    """A running gateway: both doors, its books, and what is behind them."""

    url: str
    grpc_address: str
    key: str
    world: World
    store: FakeAccounts
    rest: uvicorn.Server
    pool: FakePool
    routes: dict[str, Route]
    desk: Desk
    models: Models

    async def key_for(self, *models: str, scopes: frozenset[str] = TENANT_SCOPES) -> str:
        """Return the text of another key, which may use these models alone if any are named."""
        key, text = new_key(scopes, models=models or None)
        await self.store.add(key)
        return text


@asynccontextmanager
async def running(
    limits: Limits = LIMITS,
    *,
    counters: LimitStore | None = None,
    unknown_fields: UnknownFields = UnknownFields.PASS,
) -> AsyncIterator[Gateway]:
    """Run a gateway with both doors on free ports, over fakes of every service; `counters` keep its callers' limits."""
    world, store, pool = World(), FakeAccounts(), FakePool()
    routes: dict[str, Route] = {}
    key, text = new_key()
    await store.add(key)
    key_ring, minter = KeyRing(store), Minter(PRIVATE_KEY_PEM)
    authenticate = Authenticator(key_ring, minter)
    async with AsyncExitStack() as opened:
        desk = opened.enter_context(Desk(Path(opened.enter_context(tempfile.TemporaryDirectory())), limits=counters))
        channel = await opened.enter_async_context(
            Channel(await opened.enter_async_context(serving(*fake_services(world), pool_service(pool))))
        )
        backends = Backends(
            InferenceModels(channel),
            EmbeddingEncoders(channel),
            OrchestratorPipelines(channel),
            VectorSearchKnowledgeBases(channel),
            FeatureStoreFeatures(channel),
        )
        models = Models(InferenceModelCards(backends.models, minter.mint).fetch)
        await eventually(models.refresh)
        world.forget()
        cooldowns = Cooldowns(CooldownPolicy())
        router = Router(models, lambda: routes, cooldowns)
        runs = MeteredRuns(desk.billing, router, models)
        calls = Calls(
            backends,
            RoutedChats(backends.models, router, cooldowns, desk.billing),
            offered=OfferedModels(backends.models, backends.knowledge_bases, lambda: routes),
            runs=runs,
            unknown_fields=unknown_fields,
        )

        async def readiness() -> str | None:
            return await key_ring.check() or await models.check() or await desk.ledger.check()

        tensors = TensorCalls(OipTensors(channel), lambda: CATALOGUE, runs.tensor)
        grpc_address = await opened.enter_async_context(
            serving(gateway_service(calls), oip_service(tensors), authenticate=authenticate.enter, inner=False)
        )
        oip_door = [Operation(*each) for each in oip_operations(OipRoutes(tensors))]
        listener = bind("127.0.0.1:0")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        rest = RestServer(rest_app(calls, authenticate, readiness, limits, oip_door), listener, drain_s=2)
        async with asyncio.TaskGroup() as tasks:
            serving_rest = tasks.create_task(rest.run_until_cancelled())
            await eventually(lambda: rest.started)
            yield Gateway(url, grpc_address, text, world, store, rest, pool, routes, desk, models)
            serving_rest.cancel()
