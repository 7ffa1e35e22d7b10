"""Puts the gateway together and runs it: two doors, one core."""

from contextlib import AsyncExitStack

from servicekit import entry
from servicekit.identity import Minter
from servicekit.rpc import Channel, serve

from gateway.adapters.services import (
    EmbeddingEncoders,
    FeatureStoreFeatures,
    InferenceModels,
    OrchestratorPipelines,
    VectorSearchKnowledgeBases,
)
from gateway.adapters.sqlite import SqliteKeyStore
from gateway.api.app import Limits, rest_app
from gateway.api.authentication import Authenticator
from gateway.api.backends import Backends
from gateway.api.calls import Calls
from gateway.api.server import RestServer, bind
from gateway.api.servicer import gateway_service
from gateway.core.key_ring import KeyRing
from gateway.settings import Settings


async def run(settings: Settings) -> None:
    """Serve both doors until told to stop."""
    listener = bind(settings.rest_address)
    async with AsyncExitStack() as opened:
        opened.callback(listener.close)
        store = await opened.enter_async_context(SqliteKeyStore.open(settings.key_database))

        async def channel(address: str) -> Channel:
            return await opened.enter_async_context(Channel(address, settings.tls))

        calls = Calls(
            Backends(
                models=InferenceModels(await channel(settings.inference_address)),
                encoders=EmbeddingEncoders(await channel(settings.embedding_address)),
                pipelines=OrchestratorPipelines(await channel(settings.orchestrator_address)),
                knowledge_bases=VectorSearchKnowledgeBases(await channel(settings.vector_search_address)),
                features=FeatureStoreFeatures(await channel(settings.feature_store_address)),
            )
        )
        key_ring = KeyRing(store)
        minter = Minter(settings.identity_private_key_file.read_bytes(), settings.identity_lifetime_s)
        authenticate = Authenticator(key_ring, minter)
        app = rest_app(calls, authenticate, key_ring.check, Limits(settings.default_timeout_s, settings.max_body_bytes))
        rest = RestServer(app, listener, settings.drain_s)
        await serve(
            settings,
            [gateway_service(calls)],
            readiness=key_ring.check,
            background=[rest.run_until_cancelled],
            authenticate=authenticate,
        )


def main() -> None:
    """Start the gateway."""
    entry.main("gateway", Settings, run)


if __name__ == "__main__":
    main()
