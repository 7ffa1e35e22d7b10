"""The process as an operator starts it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from inference.adapters.catalogue_file import CatalogueError, read_catalogue
from inference.main import read_keys
from inference_fakes import END, FakeUpstream, chunk
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from penstock.inference.v1 import replicas_pb2 as replicas_pb
from penstock.inference.v1 import replicas_pb2_grpc as replicas_grpc
from servicekit.errors import NotFound, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import PUBLIC_KEY_PEM, caller, eventually
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

CATALOGUE = """
servers: {{local: {{address: "127.0.0.1:1"}}}}
upstreams: {{fake: {{base_url: "{url}", {key}}}}}
models:
  - {{name: chat, task: generate, openai: {{upstream: fake, model: up}}, queue: {{max_concurrent: 1}}}}
  - {{name: gone, task: embed, triton: {{server: local, model: gone}}}}
"""
ATTRIBUTES = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "chat",
    "gen_ai.response.model": "up-1",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.usage.input_tokens": 7,
    "gen_ai.usage.output_tokens": 2,
}
REQUEST = pb.GenerateRequest(model="chat", messages=[pb.Message(role="user", content="Hi")])


def write_catalogue(folder: Path, key: str, url: str = "http://127.0.0.1:1/v1") -> Path:
    path = folder / "catalogue.yaml"
    path.write_text(CATALOGUE.format(url=url, key=key), "utf-8")
    return path


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def process(
    folder: Path, catalogue: Path, **variables: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run the service and yield it with its address; kill it if it is still there."""
    (folder / "identity.pem").write_bytes(PUBLIC_KEY_PEM)
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
        sys.executable, "-m", "inference.main", env=environment | variables, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield started, address
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_a_wrong_catalogue_stops_the_start_with_the_path(tmp_path: Path) -> None:
    catalogue = write_catalogue(tmp_path, "api_kee: x")
    async with process(tmp_path, catalogue) as (service, _):
        _, said = await asyncio.wait_for(service.communicate(), 20)
    assert service.returncode == 2
    assert "upstreams.fake.api_kee: Extra inputs are not permitted" in said.decode()


async def test_serves_with_triton_down_and_drains_on_sigterm(tmp_path: Path) -> None:
    upstream = FakeUpstream([chunk("a")], hang=True)
    async with upstream.running():
        catalogue = write_catalogue(tmp_path, "api_key_env: SOME_KEY", upstream.url)
        async with process(tmp_path, catalogue, SOME_KEY="sk-1", INFERENCE_DRAIN_S="1") as (service, address):
            await _exercise(service, address)
            _, said = await asyncio.wait_for(service.communicate(), 20)
    assert service.returncode == 0
    assert upstream.asked_headers[0]["Authorization"] == "Bearer sk-1"
    assert "sk-1" not in said.decode()
    await asyncio.wait_for(upstream.gone.wait(), 1.0)


async def test_one_answer_is_one_trace_without_its_text(tmp_path: Path) -> None:
    upstream = FakeUpstream([chunk("Hush."), END])
    spans_file = tmp_path / "spans.jsonl"
    async with upstream.running():
        catalogue = write_catalogue(tmp_path, "api_key_env: null", upstream.url)
        async with process(tmp_path, catalogue, INFERENCE_TRACE_FILE=str(spans_file)) as (_, address):
            await _answered(address)
            await eventually(lambda: spans_file.exists() and "chat chat" in spans_file.read_text("utf-8"))
    text = spans_file.read_text("utf-8")
    spans = {span["name"]: span for span in map(orjson.loads, text.splitlines())}
    chat, served = spans["chat chat"], spans["penstock.inference.v1.InferenceService/Generate"]
    assert (chat["parent_id"], chat["trace_id"], chat["kind"]) == (served["span_id"], served["trace_id"], "CLIENT")
    assert chat["attributes"].items() >= ATTRIBUTES.items()
    assert chat["attributes"]["gen_ai.response.time_to_first_chunk"] > 0
    assert "Hush" not in text
    assert upstream.asked_headers[0]["traceparent"].split("-")[1:3] == [chat["trace_id"], chat["span_id"]]


async def test_without_a_live_replica_a_retry_may_help_and_only_an_unknown_name_is_not_found(tmp_path: Path) -> None:
    catalogue = write_catalogue(tmp_path, "api_key_env: null")
    async with process(tmp_path, catalogue) as (_, address), Channel(address) as channel:
        stub: Any = oip_grpc.GRPCInferenceServiceStub(channel.grpc)
        replicas = replicas_grpc.ReplicaServiceStub(channel.grpc)
        with caller():
            await eventually(lambda: _listed(channel, pb_grpc.InferenceServiceStub(channel.grpc)), timeout_s=20)
            with pytest.raises(Unavailable) as caught:
                await channel.call(stub.ModelInfer, oip.ModelInferRequest(model_name="gone"))
            with pytest.raises(NotFound):
                await channel.call(stub.ModelInfer, oip.ModelInferRequest(model_name="nope"))
            [listed] = (await channel.call(replicas.ListReplicas, replicas_pb.ListReplicasRequest())).replicas
    assert (caught.value.reason, caught.value.retry_after_s) == ("backend_failed", 1.0)
    assert (listed.model, listed.address, listed.in_rotation) == ("gone", "127.0.0.1:1", False)
    assert listed.reason == "backend_failed"


async def test_a_cluster_is_followed_only_from_within_it(tmp_path: Path) -> None:
    catalogue = write_catalogue(tmp_path, "api_key_env: null")
    place = "kubernetes: {service: triton, namespace: ai, port: 8001}"
    catalogue.write_text(catalogue.read_text("utf-8").replace('address: "127.0.0.1:1"', place), "utf-8")
    async with process(tmp_path, catalogue) as (service, _):
        _, said = await asyncio.wait_for(service.communicate(), 20)
    assert service.returncode == 2
    assert "servers.local.kubernetes: this process does not run in a pod" in said.decode()


async def _answered(address: str) -> None:
    async with Channel(address) as channel:
        stub = pb_grpc.InferenceServiceStub(channel.grpc)
        with caller():
            await eventually(lambda: _listed(channel, stub), timeout_s=20)
            assert await _reason(channel, stub) == "served"


async def _exercise(service: asyncio.subprocess.Process, address: str) -> None:
    """Hold the one slot of `chat`, queue behind it, and see the queued one refused when the service is told to stop."""
    async with Channel(address) as channel, asyncio.TaskGroup() as tasks:
        stub = pb_grpc.InferenceServiceStub(channel.grpc)
        with caller():
            await eventually(lambda: _listed(channel, stub), timeout_s=20)
            first = channel.stream(stub.Generate, REQUEST)
            assert (await anext(first)).HasField("served")
            queued = tasks.create_task(_reason(channel, stub))
            await asyncio.sleep(0)
            await eventually(lambda: _listed(channel, stub))  # a later call is answered: the earlier one has arrived
            service.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(queued, 5) == "draining"
        await first.aclose()


async def _listed(channel: Channel, stub: pb_grpc.InferenceServiceStub) -> bool:
    try:
        models = (await channel.call(stub.ListModels, pb.ListModelsRequest())).models
    except Unavailable:
        return False
    return [(each.name, each.ready, each.reason) for each in models] == [
        ("chat", True, ""),
        ("gone", False, "backend_failed"),
    ]


async def _reason(channel: Channel, stub: pb_grpc.InferenceServiceStub) -> str:
    try:
        async for _ in channel.stream(stub.Generate, REQUEST):
            pass
    except Unavailable as error:
        return error.reason
    return "served"


def test_a_key_comes_from_the_variable_or_the_file_the_catalogue_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-1")
    assert read_keys(read_catalogue(write_catalogue(tmp_path, "api_key_env: SOME_KEY"))) == {"fake": "sk-1"}
    (tmp_path / "key").write_text("sk-2\n", "utf-8")
    assert read_keys(read_catalogue(write_catalogue(tmp_path, f"api_key_file: {tmp_path}/key"))) == {"fake": "sk-2"}
    assert read_keys(read_catalogue(write_catalogue(tmp_path, "api_key_env: null"))) == {}


@pytest.mark.parametrize("key", ["sk-1\nX-Evil: 1", "ключ", "sk\x00"])
def test_a_key_that_would_break_a_header_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    (tmp_path / "key").write_text(key, "utf-8")
    with pytest.raises(CatalogueError) as caught:
        read_keys(read_catalogue(write_catalogue(tmp_path, f"api_key_file: {tmp_path}/key")))
    assert "upstreams.fake" in str(caught.value)
    assert key[:2] not in str(caught.value)


@pytest.mark.parametrize("key", ["api_key_env: NOT_SET_AT_ALL", "api_key_file: /nowhere/key"])
def test_a_key_that_is_not_there_is_named(tmp_path: Path, key: str) -> None:
    field, _, value = key.partition(": ")
    with pytest.raises(CatalogueError) as caught:
        read_keys(read_catalogue(write_catalogue(tmp_path, key)))
    assert f"upstreams.fake.{field}" in str(caught.value)
    assert value in str(caught.value)
