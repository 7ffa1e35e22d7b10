"""Versions in two real processes on one database: changes are live in both, and rollbacks under load fail nobody."""

import asyncio
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from inference_fakes import END, FakeUpstream, chunk
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import versions_pb2
from penstock.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.inference.v1.versions_pb2_grpc import VersionServiceStub
from servicekit.errors import Unavailable
from servicekit.rpc import Channel
from servicekit.testing import PUBLIC_KEY_PEM, caller, eventually

CATALOGUE = """
upstreams: {{fake: {{base_url: "{url}"}}}}
models:
  - {{name: chat, task: generate, openai: {{upstream: fake, model: one}}, queue: {{max_concurrent: 16}}}}
  - {{name: chat-v2, task: generate, openai: {{upstream: fake, model: two}}, queue: {{max_concurrent: 16}}}}
"""
LIVE_S = 5.0


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Client:
    """Calls one of the processes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inference = InferenceServiceStub(channel.grpc)
        self.versions = VersionServiceStub(channel.grpc)

    async def ready(self) -> bool:
        try:
            await self._channel.call(self._inference.ListModels, pb.ListModelsRequest())
        except Unavailable:
            return False
        return True

    async def version(self) -> str:
        found = await self._channel.call(self._inference.GetModel, pb.GetModelRequest(name="chat"))
        return found.model.version

    async def chat(self) -> str:
        request = pb.GenerateRequest(model="chat", messages=[pb.Message(role="user", content="Hi")])
        answer = [each async for each in self._channel.stream(self._inference.Generate, request, timeout_s=10)]
        return answer[0].served.version

    async def roles(self, revision: int, **roles: object) -> int:
        request = versions_pb2.SetRolesRequest(model="chat", revision=revision, roles=versions_pb2.Roles(**roles))
        return (await self._channel.call(self.versions.SetRoles, request)).revision

    async def register(self) -> None:
        variant = versions_pb2.NewVariant(served_by="chat-v2")
        request = versions_pb2.RegisterVersionRequest(model="chat", version="2", variants=[variant])
        await self._channel.call(self.versions.RegisterVersion, request)
        verdict = versions_pb2.RecordEvaluationRequest(model="chat", version="2", verdict=versions_pb2.VERDICT_PASSED)
        await self._channel.call(self.versions.RecordEvaluation, verdict)


@asynccontextmanager
async def process(folder: Path, catalogue: Path) -> AsyncIterator[Client]:
    address = free_address()
    environment = {
        "INFERENCE_ADDRESS": address,
        "INFERENCE_METRICS_ADDRESS": free_address(),
        "INFERENCE_IDENTITY_PUBLIC_KEY_FILE": str(folder / "identity.pem"),
        "INFERENCE_CATALOGUE_FILE": str(catalogue),
        "INFERENCE_VERSION_DATABASE": str(folder / "versions.db"),
        "PATH": os.defpath,
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inference.main", env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with Channel(address) as channel:
            client = Client(channel)
            await eventually(client.ready, timeout_s=30)
            yield client
    finally:
        started.kill()
        await started.wait()


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    (tmp_path / "identity.pem").write_bytes(PUBLIC_KEY_PEM)
    upstream = FakeUpstream([chunk("Hello"), END])
    catalogue = tmp_path / "catalogue.yaml"
    with caller():
        async with upstream.running() as fake:
            catalogue.write_text(CATALOGUE.format(url=fake.url), "utf-8")
            async with process(tmp_path, catalogue) as one, process(tmp_path, catalogue) as other:
                yield one, other


async def test_a_change_is_live_everywhere_and_a_rollback_under_load_fails_nobody(
    clients: tuple[Client, Client],
) -> None:
    one, other = clients
    await one.register()
    answers: Counter[str] = Counter()
    stopped = asyncio.Event()

    async def ask(client: Client, key: str) -> None:
        with caller(key_id=key):
            while not stopped.is_set():
                answers[await client.chat()] += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(ask(one, f"one-{number}"))
            tasks.create_task(ask(other, f"other-{number}"))
        revision = await one.roles(0, canaries=[versions_pb2.CanaryWeight(version="2", weight_percent=50)])
        for champion in ("2", "", "2", ""):
            begun = time.monotonic()
            revision = await one.roles(revision, champion=champion)

            async def changed(wanted: str = champion) -> bool:
                return (await other.version() == "2") == (wanted == "2")

            await eventually(changed, timeout_s=LIVE_S)
            assert time.monotonic() - begun < LIVE_S
        stopped.set()
    assert set(answers) == {"up-1", "2"}
    assert min(answers.values()) > 10
