"""The stand-in for Kubernetes that `make chart-test` uses is one that the pool believes."""

import asyncio
from contextlib import aclosing
from pathlib import Path

from inference.adapters.kubernetes import ClusterAccess, KubernetesAddresses

from deploy.trial.api_server import Endpoints, api_server
from deploy.trial.secrets import Authority, write


async def test_the_pool_follows_pods_through_the_stand_in(tmp_path: Path) -> None:
    endpoints = Endpoints(token="t", ready={"pool": {"10.0.0.1"}})
    certificate = Authority.fresh().write(tmp_path / "tls", ["127.0.0.1"])
    token = write(tmp_path / "token", b"t")
    with api_server(endpoints, "127.0.0.1", "penstock", certificate) as port:
        access = ClusterAccess(f"https://127.0.0.1:{port}", token, certificate["ca.crt"])
        async with asyncio.timeout(20), aclosing(KubernetesAddresses(access, "penstock", "pool", 8091).watch()) as seen:
            assert await anext(seen) == {"10.0.0.1:8091"}
            endpoints.put("pool", {"10.0.0.1", "10.0.0.2"})
            assert await anext(seen) == {"10.0.0.1:8091", "10.0.0.2:8091"}
            endpoints.put("pool", set())
            assert await anext(seen) == frozenset()


async def test_it_lets_nobody_in_without_the_token(tmp_path: Path) -> None:
    endpoints = Endpoints(token="t", ready={"pool": {"10.0.0.1"}})
    certificate = Authority.fresh().write(tmp_path / "tls", ["127.0.0.1"])
    wrong = write(tmp_path / "token", b"u")
    with api_server(endpoints, "127.0.0.1", "penstock", certificate) as port:
        access = ClusterAccess(f"https://127.0.0.1:{port}", wrong, certificate["ca.crt"])
        async with aclosing(KubernetesAddresses(access, "penstock", "pool", 8091).watch()) as seen:
            first = asyncio.create_task(anext(seen))
            done, _ = await asyncio.wait({first}, timeout=1)
            assert not done
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
