"""OIP through the pool: raw bytes, scopes, and tritonclient as a stranger uses it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from inference.adapters.triton import TritonServer, TritonTensors
from inference.api.tensors import SERVICE, tensor_service
from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.served_model import ServedModel
from inference_fakes import FakeGenerator, FakeTensors, FakeTriton, generating, model, text_response
from servicekit.errors import Forbidden, InvalidInput, NotFound, Unauthenticated, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import ALL_SCOPES, caller, serving
from tritonclient.grpc import aio as tritonclient
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc


def tensor_model(name: str, tensors: Any, task: Task = Task.EMBED, ready: bool = True) -> ServedModel:
    return ServedModel(model(name, task), tensors=tensors, state=ModelState(ready=ready, version="1"))


@asynccontextmanager
async def client(*models: ServedModel) -> AsyncIterator[tuple[Channel, Any]]:
    async with serving(tensor_service(Pool(models))) as address, Channel(address) as channel:
        with caller():
            yield channel, oip_grpc.GRPCInferenceServiceStub(channel.grpc)


async def test_the_very_bytes_reach_the_backend_and_come_back() -> None:
    answer = oip.ModelInferResponse(model_name="encoder", raw_output_contents=[b"\x01" * 100])
    tensors = FakeTensors(answer.SerializeToString())
    request = oip.ModelInferRequest(model_name="encoder", id="1", raw_input_contents=[b"\x00" * 100])
    async with client(tensor_model("encoder", tensors)) as (channel, stub):
        assert await channel.call(stub.ModelInfer, request) == answer
    assert tensors.requests == [request.SerializeToString()]


async def test_no_tensor_lies_in_memory_that_the_caller_names() -> None:
    tensors = FakeTensors()
    request = oip.ModelInferRequest(model_name="encoder")
    request.outputs.add(name="y").parameters["shared_memory_region"].string_param = "another caller's"
    async with client(tensor_model("encoder", tensors)) as (channel, stub):
        with pytest.raises(InvalidInput, match="shared memory"):
            await channel.call(stub.ModelInfer, request)

        described: Any = channel.grpc
        stream = described.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        with pytest.raises(InvalidInput, match="shared memory"):
            _ = [each async for each in channel.stream(stream, request.SerializeToString())]
    assert tensors.requests == []


SCOPES: list[tuple[Iterable[str], str, type[Exception] | None]] = [
    ({"models"}, "encoder", None),
    ({"models"}, "tensor", None),
    ({"embeddings"}, "encoder", None),
    ({"embeddings"}, "tensor", Forbidden),
    ({"ask"}, "encoder", Forbidden),
    ({"ask"}, "nope", Forbidden),
    (ALL_SCOPES, "nope", NotFound),
]


@pytest.mark.parametrize(("scopes", "name", "kind"), SCOPES)
async def test_scopes_depend_on_the_model(scopes: Iterable[str], name: str, kind: type[Exception] | None) -> None:
    models = (tensor_model("encoder", FakeTensors()), tensor_model("tensor", FakeTensors(), Task.TENSOR))
    async with client(*models) as (channel, stub):
        with caller(scopes=scopes):
            request = oip.ModelInferRequest(model_name=name)
            if kind is None:
                await channel.call(stub.ModelInfer, request)
            else:
                with pytest.raises(kind):
                    await channel.call(stub.ModelInfer, request)


async def test_descriptions_need_no_caller() -> None:
    service = tensor_service(Pool([tensor_model("encoder", FakeTensors())]))
    async with serving(service) as address, Channel(address) as channel:
        stub: Any = oip_grpc.GRPCInferenceServiceStub(channel.grpc)
        assert (await channel.call(stub.ModelReady, oip.ModelReadyRequest(name="encoder"))).ready
        await channel.call(stub.ModelConfig, oip.ModelConfigRequest(name="encoder"))
        with pytest.raises(Unauthenticated):
            await channel.call(stub.ModelInfer, oip.ModelInferRequest(model_name="encoder"))


async def test_bad_messages_are_the_callers_fault() -> None:
    async with client(tensor_model("encoder", FakeTensors()), generating(FakeGenerator(), "chat")) as (channel, stub):
        raw = channel.grpc.unary_unary(f"/{SERVICE}/ModelInfer")
        for message in (b"\xff\xff", b"", oip.ModelInferRequest(model_name="chat").SerializeToString()):
            with pytest.raises(InvalidInput):
                await channel.call(raw, message)
        with pytest.raises(NotFound):
            await channel.call(stub.ModelInfer, oip.ModelInferRequest(model_name="nope"))


async def test_a_failure_keeps_its_reason() -> None:
    tensors = FakeTensors(error=Unavailable("x", reason="not_loaded"))
    async with client(tensor_model("encoder", tensors)) as (channel, stub):
        with pytest.raises(Unavailable) as caught:
            await channel.call(stub.ModelInfer, oip.ModelInferRequest(model_name="encoder"))
    assert caught.value.reason == "not_loaded"


async def test_health_and_what_the_server_is() -> None:
    async with client(tensor_model("up", FakeTensors()), tensor_model("down", FakeTensors(), ready=False)) as (
        channel,
        stub,
    ):
        assert (await channel.call(stub.ServerLive, oip.ServerLiveRequest())).live
        assert (await channel.call(stub.ServerReady, oip.ServerReadyRequest())).ready
        assert (await channel.call(stub.ServerMetadata, oip.ServerMetadataRequest())).name == "penstock"
        assert (await channel.call(stub.ModelReady, oip.ModelReadyRequest(name="up"))).ready
        assert not (await channel.call(stub.ModelReady, oip.ModelReadyRequest(name="down"))).ready


async def test_reflection_lists_the_service() -> None:
    async with serving(tensor_service(Pool([]))) as address, grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for response in stub.ServerReflectionInfo(iter([request])):
            assert SERVICE in {each.name for each in response.list_services_response.service}


@asynccontextmanager
async def through_the_pool(triton: FakeTriton, name: str) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    """Yield tritonclient connected to a pool before a fake Triton whose model is called `there`, and its headers."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(triton.running())
        server = await stack.enter_async_context(TritonServer(address))
        served = tensor_model(name, TritonTensors(server, "there", name))
        pool = await stack.enter_async_context(serving(tensor_service(Pool([served]))))
        identity = stack.enter_context(caller())
        yield (
            await stack.enter_async_context(tritonclient.InferenceServerClient(pool)),
            {"authorization": f"Bearer {identity.token}"},
        )


@pytest.mark.parametrize("name", ["there", "renamed" * 30])
async def test_tritonclient_works_through_the_pool_under_either_name(name: str) -> None:
    triton = FakeTriton()
    async with through_the_pool(triton, name) as (stranger, headers):
        column = tritonclient.InferInput("x", [2], "INT64")
        column.set_data_from_numpy(np.array([1, 2], np.int64))
        result = await stranger.infer(name, [column], headers=headers)
        metadata = await stranger.get_model_metadata(name, headers=headers)
        config = await stranger.get_model_config(name, headers=headers)
        assert await stranger.is_model_ready(name, headers=headers)
    assert triton.requests[0].model_name == "there"
    assert triton.requests[0].raw_input_contents == [np.array([1, 2], np.int64).tobytes()]
    assert result.get_response().model_name == name
    assert result.get_response().raw_output_contents == triton.requests[0].raw_input_contents
    assert metadata.name == name
    assert (config.config.name, config.config.parameters["digest"].string_value) == (name, "ab12")
    assert "authorization" not in triton.metadata[0]


async def test_tritonclient_streams_through_the_pool() -> None:
    triton = FakeTriton()
    triton.responses = [text_response("a"), text_response("b", "stop", final=True)]
    async with through_the_pool(triton, "renamed") as (stranger, headers):

        async def requests() -> AsyncIterator[dict[str, Any]]:
            column = tritonclient.InferInput("text_input", [1], "BYTES")
            column.set_data_from_numpy(np.array([b"hi"], np.object_))
            for _ in range(2):
                yield {"model_name": "renamed", "inputs": [column]}

        answers = [each async for each in stranger.stream_infer(requests(), headers=headers)]
    assert [error for _, error in answers] == [None] * 4
    responses = [result.get_response() for result, _ in answers]
    assert {response.model_name for response in responses} == {"renamed"}
    assert [response.parameters["triton_final_response"].bool_param for response in responses] == [False, True] * 2
    assert {request.model_name for request in triton.requests} == {"there"}
