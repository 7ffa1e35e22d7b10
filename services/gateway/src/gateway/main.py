"""Puts the gateway together and runs it: three doors, one core."""

import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass

from servicekit import entry
from servicekit.identity import Minter
from servicekit.rpc import Channel, serve

from gateway.adapters.config_file import ConfigurationFile
from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.model_cards import InferenceModelCards
from gateway.adapters.model_versions import InferenceVersions
from gateway.adapters.oidc import AiohttpKeySets, PyJwtVerifier
from gateway.adapters.oip import OipTensors
from gateway.adapters.redis import redis_limits
from gateway.adapters.services import (
    EmbeddingEncoders,
    FeatureStoreFeatures,
    InferenceModels,
    OrchestratorPipelines,
    VectorSearchKnowledgeBases,
)
from gateway.adapters.sql_accounts import SqlAccounts
from gateway.adapters.usage_sql import SqlUsage
from gateway.api.admin import AdminRoutes, admin_operations
from gateway.api.admin_servicer import admin_service
from gateway.api.app import Limits, Operation, rest_app
from gateway.api.authentication import Authenticator
from gateway.api.backends import Backends
from gateway.api.calls import Calls
from gateway.api.chat_rules import UnknownFields
from gateway.api.model_versions import ModelVersionRoutes, model_version_operations
from gateway.api.offered_models import OfferedModels
from gateway.api.oip_grpc import oip_service
from gateway.api.oip_rest import OipRoutes, oip_operations
from gateway.api.routed_chats import RoutedChats
from gateway.api.runs import MeteredRuns
from gateway.api.server import RestServer, bind
from gateway.api.servicer import gateway_service
from gateway.api.tensor_calls import TensorCalls
from gateway.api.usage import UsageRoutes, usage_operations
from gateway.api.usage_servicer import usage_service
from gateway.core.administration import Administration
from gateway.core.billing import Billing, Books
from gateway.core.configuration import Configuration, LimitsPolicy, declared_tenants
from gateway.core.cooldowns import Cooldowns
from gateway.core.declaration import Declaration
from gateway.core.key_administration import KeyAdministration
from gateway.core.key_ring import KeyRing
from gateway.core.ledger import Ledger
from gateway.core.left_reservations import LeftReservations
from gateway.core.limit_breaker import GuardedLimits
from gateway.core.limit_ports import LimitStore
from gateway.core.live_configuration import BadConfiguration, LiveConfiguration
from gateway.core.load import Gate
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import Meter
from gateway.core.models import Models
from gateway.core.oidc import TokenRing
from gateway.core.retention import Retention
from gateway.core.retries import RetryLinks
from gateway.core.routes import Router
from gateway.core.slo import SloTracker
from gateway.core.usage import Usage
from gateway.settings import Settings

BAD_CONFIGURATION = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """What follows the configuration while the gateway runs."""

    declaration: Declaration
    tokens: TokenRing
    cooldowns: Cooldowns
    gate: Gate
    slo: SloTracker

    async def apply(self, configuration: Configuration) -> None:
        """Put a configuration in force; the database first, since only that can refuse."""
        await self.declaration.apply(declared_tenants(configuration))
        self.tokens.declare(list(configuration.oidc.values()))
        self.cooldowns.policy = configuration.cooldown
        self.gate.follow(configuration.admission)
        self.slo.watch(configuration.slo_targets)


async def run(settings: Settings) -> None:
    """Serve all doors until told to stop."""
    listener = bind(settings.rest_address)
    file = ConfigurationFile(settings.configuration_file)
    first = _first(file)
    async with AsyncExitStack() as opened:
        opened.callback(listener.close)
        accounts = await opened.enter_async_context(SqlAccounts.open(settings.database))
        store = await opened.enter_async_context(SqlLedger.open(settings.database))
        counters = await _limits(opened, settings, first.limits)
        ledger = await _ledger(opened, settings, store, counters)
        usage = Usage(await opened.enter_async_context(SqlUsage.open(settings.database)))

        inference = await opened.enter_async_context(Channel(settings.inference_address, settings.tls))
        backends = await _backends(opened, settings, inference)
        minter = Minter(settings.identity_private_key_file.read_bytes(), settings.identity_lifetime_s)
        models = Models(InferenceModelCards(backends.models, minter.mint).fetch)
        key_ring = KeyRing(accounts, outage_s=settings.key_outage_s)
        rules = _rules(first, accounts, await opened.enter_async_context(AiohttpKeySets.open()))
        live = LiveConfiguration(first, file.latest, lambda: models.catalogue if models.known else None, rules.apply)
        billing = Billing(Books(rules.gate, Meter(counters, ledger), ledger, rules.slo, RetryLinks()))
        router = Router(models, lambda: live.current.routes, rules.cooldowns)
        runs = MeteredRuns(billing, router, models)
        calls = Calls(
            backends,
            RoutedChats(backends.models, router, rules.cooldowns, billing),
            offered=OfferedModels(backends.models, backends.knowledge_bases, lambda: live.current.routes),
            runs=runs,
            unknown_fields=UnknownFields(settings.unknown_fields),
        )
        tensors = TensorCalls(OipTensors(inference), lambda: models.catalogue, runs.tensor)
        admin = Administration(accounts), KeyAdministration(accounts)
        authenticate = Authenticator(key_ring, minter, rules.tokens)

        async def readiness() -> str | None:
            return await key_ring.check() or await models.check() or await ledger.check()

        more = _operations(
            AdminRoutes(*admin),
            UsageRoutes(usage),
            OipRoutes(tensors),
            ModelVersionRoutes(InferenceVersions(inference)),
        )
        limits = Limits(settings.default_timeout_s, settings.max_body_bytes)
        rest = RestServer(rest_app(calls, authenticate, readiness, limits, more), listener, settings.drain_s)
        await serve(
            settings,
            [gateway_service(calls), oip_service(tensors), admin_service(*admin), usage_service(usage)],
            readiness=readiness,
            background=[
                rest.run_until_cancelled,
                models.watch,
                live.watch,
                ledger.run,
                Retention(store, first.ledger.retention_days).run,
            ],
            authenticate=authenticate.enter,
        )


async def _backends(opened: AsyncExitStack, settings: Settings, inference: Channel) -> Backends:
    async def channel(address: str) -> Channel:
        return await opened.enter_async_context(Channel(address, settings.tls))

    return Backends(
        InferenceModels(inference),
        EmbeddingEncoders(await channel(settings.embedding_address)),
        OrchestratorPipelines(await channel(settings.orchestrator_address)),
        VectorSearchKnowledgeBases(await channel(settings.vector_search_address)),
        FeatureStoreFeatures(await channel(settings.feature_store_address)),
    )


def _rules(first: Configuration, accounts: SqlAccounts, keysets: AiohttpKeySets) -> Rules:
    tokens = TokenRing(list(first.oidc.values()), keysets, PyJwtVerifier(), accounts)
    gate = Gate(first.admission)
    gate.publish()
    return Rules(Declaration(accounts), tokens, Cooldowns(first.cooldown), gate, SloTracker(first.slo_targets))


def _operations(
    admin: AdminRoutes, usage: UsageRoutes, tensors: OipRoutes, versions: ModelVersionRoutes
) -> list[Operation]:
    """Return what REST offers beside what every caller asks for."""
    offered = [*admin_operations(admin), *usage_operations(usage), *oip_operations(tensors)]
    offered += model_version_operations(versions)
    return [Operation(*operation) for operation in offered]


def _first(file: ConfigurationFile) -> Configuration:
    try:
        return file.first()
    except BadConfiguration as error:
        sys.stderr.write("\n".join(error.lines) + "\n")
        raise SystemExit(BAD_CONFIGURATION) from error


async def _ledger(opened: AsyncExitStack, settings: Settings, store: SqlLedger, counters: LimitStore) -> Ledger:
    """Open the ledger, with what an earlier process of this journal left behind taken in before anything is spent."""
    left = LeftReservations(counters).settle if settings.redis_url.get_secret_value() else None
    ledger = Ledger(opened.enter_context(FileJournal(settings.journal_folder)), store, settle_left=left)
    opened.push_async_callback(ledger.close)
    await ledger.adopt()
    return ledger


async def _limits(opened: AsyncExitStack, settings: Settings, policy: LimitsPolicy) -> LimitStore:
    """Return the counters of limits: in Redis for several gateways, in this process for one."""
    url = settings.redis_url.get_secret_value()
    if not url:
        return LocalLimits(processes=policy.processes)
    shared = await opened.enter_async_context(redis_limits(url, policy.timeout_ms / 1e3))
    local = LocalLimits(processes=policy.processes) if policy.when_away == "local" else None
    return GuardedLimits(shared, local)


def main() -> None:
    """Start the gateway."""
    entry.main("gateway", Settings, run)


if __name__ == "__main__":
    main()
