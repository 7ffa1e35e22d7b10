"""OIP over gRPC at the gateway, with tritonclient and a key, as a stranger uses it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from gateway.core.scopes import ADMIN, EMBEDDINGS, MODELS
from gateway_fakes import Gateway
from servicekit.errors import NotFound, Unavailable
from tritonclient.grpc import aio as tritonclient
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc
from tritonclient.utils import InferenceServerException

VALUES = np.arange(6, dtype=np.int64).reshape(3, 2)


@asynccontextmanager
async def client(gateway: Gateway) -> AsyncIterator[Any]:
    connected = tritonclient.InferenceServerClient(gateway.grpc_address)
    try:
        yield connected
    finally:
        await connected.close()


def key(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def tensors(values: np.ndarray = VALUES, datatype: str = "INT64") -> list[Any]:
    tensor = tritonclient.InferInput("in", list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return [tensor]


def request(model: str = "echo", **more: Any) -> oip.ModelInferRequest:
    made = oip.ModelInferRequest(model_name=model, id="7", raw_input_contents=[VALUES.tobytes()], **more)
    made.inputs.add(name="in", datatype="INT64", shape=VALUES.shape)
    return made


async def test_tritonclient_infers_with_a_key(gateway: Gateway) -> None:
    async with client(gateway) as triton:
        result = await triton.infer("echo", tensors(), headers=key(gateway.key), request_id="7")
        text = np.array([b"a", "ü".encode(), b""], dtype=np.object_)
        texts = await triton.infer("org/echo", tensors(text, "BYTES"), headers=key(gateway.key))
    assert (result.as_numpy("in") == VALUES).all()
    assert result.get_response().id == "7"
    assert texts.as_numpy("in").tolist() == text.tolist()


async def test_tritonclient_asks_about_server_and_models(gateway: Gateway) -> None:
    async with client(gateway) as triton:
        assert await triton.is_server_live()
        assert await triton.is_server_ready()
        assert (await triton.get_server_metadata(headers=key(gateway.key))).name == "penstock"
        assert await triton.is_model_ready("echo", headers=key(gateway.key))
        assert await triton.is_model_ready("echo", "1", headers=key(gateway.key))
        assert (await triton.get_model_metadata("echo", headers=key(gateway.key))).inputs[0].name == "in"
        assert (await triton.get_model_config("echo", headers=key(gateway.key))).config.max_batch_size == 8
        for name, version in (("asleep", ""), ("none", ""), ("echo", "9")):
            assert not await triton.is_model_ready(name, version, headers=key(gateway.key))
        gateway.pool.ready = False
        assert not await triton.is_server_ready()


async def test_the_very_bytes_reach_the_pool_and_come_back(gateway: Gateway) -> None:
    sent = request().SerializeToString() + b"\x0a\x04echo"  # a name twice is as it was, too
    gateway.pool.answer = oip.ModelInferResponse(model_name="x", raw_output_contents=[b"\x01" * 9]).SerializeToString()
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = await infer(sent, metadata=tuple(key(gateway.key).items()), timeout=5)
    assert gateway.pool.requests == [sent]
    assert answer == gateway.pool.answer


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("ServerMetadata", oip.ServerMetadataRequest()),
        ("ModelReady", oip.ModelReadyRequest(name="echo")),
        ("ModelMetadata", oip.ModelMetadataRequest(name="echo")),
        ("ModelConfig", oip.ModelConfigRequest(name="echo")),
        ("ModelInfer", request()),
    ],
)
async def test_nothing_but_health_opens_without_a_key(gateway: Gateway, method: str, asked: Any) -> None:
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        stub: Any = oip_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(asked, timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await stub.ServerReady(oip.ServerReadyRequest(), timeout=5)).ready
    assert gateway.pool.requests == []


RIGHTS = [
    ({MODELS}, (), "echo", None),
    ({MODELS}, (), "minilm-l6", None),
    ({EMBEDDINGS}, (), "minilm-l6", None),
    ({EMBEDDINGS}, (), "echo", grpc.StatusCode.NOT_FOUND),
    ({ADMIN}, (), "echo", grpc.StatusCode.PERMISSION_DENIED),
    ({MODELS}, ("org/*",), "org/echo", None),
    ({MODELS}, ("org/*",), "echo", grpc.StatusCode.NOT_FOUND),
    ({MODELS}, (), "none", grpc.StatusCode.NOT_FOUND),
]


@pytest.mark.parametrize(("scopes", "models", "model", "code"), RIGHTS)
async def test_rights_decide_which_models_there_are(gateway: Gateway, scopes, models, model: str, code) -> None:
    text = await gateway.key_for(*models, scopes=frozenset(scopes))
    async with client(gateway) as triton:
        if code is None:
            await triton.infer(model, tensors(), headers=key(text))
            return
        calls = (
            triton.infer(model, tensors(), headers=key(text)),
            triton.get_model_metadata(model, headers=key(text)),
            triton.get_model_config(model, headers=key(text)),
        )
        for call in calls:
            with pytest.raises(InferenceServerException) as caught:
                await call
            assert caught.value.status() == str(code)
            if code is grpc.StatusCode.NOT_FOUND:
                assert caught.value.message() == f"Request for unknown model: '{model}' is not found"
    assert gateway.pool.requests == []


async def test_a_second_name_does_not_slip_past_the_rights(gateway: Gateway) -> None:
    text = await gateway.key_for("org/*", scopes=frozenset({MODELS}))
    sneaky = request("org/echo").SerializeToString() + oip.ModelInferRequest(model_name="echo").SerializeToString()
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(sneaky, metadata=tuple(key(text).items()), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def streamed(triton: Any, headers: dict[str, str], *wanted: tuple[str, int]) -> list[Any]:
    async def requests() -> AsyncIterator[Any]:
        for position, (model, count) in enumerate(wanted):
            yield {
                "model_name": model,
                "inputs": tensors(),
                "request_id": str(position),
                "parameters": {"count": count},
            }

    return [each async for each in triton.stream_infer(requests(), headers=headers)]


async def test_a_stream_answers_each_request_as_often_as_the_model_does(gateway: Gateway) -> None:
    async with client(gateway) as triton:
        answers = await streamed(triton, key(gateway.key), ("echo", 3), ("org/echo", 0), ("org/echo", 1))
    seen = [(result.get_response().id, result.get_response().parameters["number"].int64_param) for result, _ in answers]
    assert seen == [("0", 0), ("0", 1), ("0", 2), ("2", 0)]
    assert all(error is None for _, error in answers)
    assert (answers[-1][0].as_numpy("in") == VALUES).all()


async def test_a_failed_request_of_a_stream_is_a_text_and_the_stream_goes_on(gateway: Gateway) -> None:
    async with client(gateway) as triton:
        answers = await streamed(triton, key(gateway.key), ("none", 1), ("echo", 1))
    assert "unknown model: 'none'" in str(answers[0][1])
    assert answers[1][1] is None


async def test_a_failed_stream_is_a_status_for_who_asks_for_it(gateway: Gateway) -> None:
    async with client(gateway) as triton:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            # gRPC's client would take a second request, that it may not send any more, for how the call ended
            await streamed(triton, key(gateway.key) | {"triton_grpc_error": "true"}, ("none", 1))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Unavailable("no room", reason="queue_full", retry_after_s=3), grpc.StatusCode.UNAVAILABLE),
        (NotFound("gone"), grpc.StatusCode.NOT_FOUND),
        (ZeroDivisionError("secret"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_failures_of_the_pool_keep_their_status(gateway: Gateway, failure: Exception, code) -> None:
    gateway.pool.failure = failure
    async with client(gateway) as triton:
        with pytest.raises(InferenceServerException) as caught:
            await triton.infer("echo", tensors(), headers=key(gateway.key))
    assert caught.value.status() == str(code)
    assert "secret" not in caught.value.message()


async def test_a_deadline_holds_and_leaving_stops_the_model(gateway: Gateway) -> None:
    gateway.pool.held = True
    async with client(gateway) as triton:
        with pytest.raises(InferenceServerException) as caught:
            await triton.infer("echo", tensors(), headers=key(gateway.key), client_timeout=0.2)
        assert "DEADLINE_EXCEEDED" in caught.value.status()
        await asyncio.wait_for(gateway.pool.ended.wait(), 1)
        gateway.pool.ended.clear()

        async def requests() -> AsyncIterator[Any]:
            yield {"model_name": "echo", "inputs": tensors(), "parameters": {"count": 2}}

        stream = triton.stream_infer(requests(), headers=key(gateway.key))
        async for _ in stream:
            break
        stream.cancel()
        await asyncio.wait_for(gateway.pool.ended.wait(), 1)


async def test_a_message_that_is_none_is_the_callers_fault(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        for method in ("ModelInfer", "ModelMetadata", "ModelConfig", "ModelReady"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            for message in (b"", b"\xff\xff", b"\x0a\x7f", b"\x0a\x02\xff\xfe"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(message, metadata=tuple(key(gateway.key).items()), timeout=5)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_tensor_of_many_megabytes_passes(gateway: Gateway) -> None:
    values = np.zeros((2_000_000, 2), dtype=np.int64)
    async with client(gateway) as triton:
        result = await triton.infer("echo", tensors(values), headers=key(gateway.key))
    assert result.as_numpy("in").shape == values.shape
