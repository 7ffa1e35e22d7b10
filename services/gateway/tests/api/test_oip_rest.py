"""OIP over REST at the gateway: tritonclient.http as a stranger uses it, JSON tensors, and what is wrong with them."""

import asyncio
import json
import struct
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from gateway.api.errors import TooLarge
from gateway.api.oip_json import LARGEST_JSON, read_request
from gateway.api.oip_responses import InferResponse, ModelDescription, OipError, ServerDescription
from gateway_fakes import Gateway
from servicekit.errors import QuotaExceeded, Unavailable
from tritonclient import http as tritonhttp
from tritonclient.grpc import service_pb2 as oip
from tritonclient.http import aio as tritonclient
from tritonclient.utils import InferenceServerException

INFER = "/v2/models/echo/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"


def tensor(name: str = "in", shape: Any = (2,), datatype: Any = "INT64", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, **more}


def body(*inputs: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **more}


def http_tensors(module: Any, *, binary: bool) -> list[Any]:
    made = []
    for name, values, datatype in (
        ("ints", np.arange(6, dtype=np.int64).reshape(3, 2), "INT64"),
        ("floats", np.array([[0.5, -1.25]], dtype=np.float32), "FP32"),
        ("texts", np.array([b"a", "ü".encode(), b""], dtype=np.object_), "BYTES"),
        ("flags", np.array([True, False]), "BOOL"),
    ):
        each = module.InferInput(name, list(values.shape), datatype)
        each.set_data_from_numpy(values, binary_data=binary)
        made.append(each)
    return made


def check_echo(result: Any) -> None:
    assert result.as_numpy("ints").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert result.as_numpy("floats").tolist() == [[0.5, -1.25]]
    assert [each if isinstance(each, str) else each.decode() for each in result.as_numpy("texts")] == ["a", "ü", ""]
    assert result.as_numpy("flags").tolist() == [True, False]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("model", ["echo", "org/echo"])
async def test_tritonclient_infers_with_a_key(gateway: Gateway, binary_in: bool, binary_out, model: str) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    outputs = None
    if binary_out is not None:
        names = ("ints", "floats", "texts", "flags")
        outputs = [tritonclient.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    async with tritonclient.InferenceServerClient(gateway.url.removeprefix("http://")) as triton:
        result = await triton.infer(
            model, http_tensors(tritonclient, binary=binary_in), outputs=outputs, headers=headers, request_id="7"
        )
        check_echo(result)
        assert result.get_response()["id"] == "7"


async def test_the_plain_client_works_as_well(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"}

    def ask() -> None:
        with tritonhttp.InferenceServerClient(gateway.url.removeprefix("http://")) as triton:
            assert triton.is_server_live()
            assert triton.is_server_ready()
            assert triton.is_model_ready("echo", headers=headers)
            assert not triton.is_model_ready("echo")
            check_echo(triton.infer("echo", http_tensors(tritonhttp, binary=True), headers=headers))
            with pytest.raises(InferenceServerException, match="Request for unknown model: 'none' is not found"):
                triton.infer("none", http_tensors(tritonhttp, binary=True), headers=headers)

    await asyncio.to_thread(ask)


async def test_tritonclient_asks_about_server_and_models(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    async with tritonclient.InferenceServerClient(gateway.url.removeprefix("http://")) as triton:
        assert await triton.is_server_live()
        assert await triton.is_server_ready()
        ServerDescription.model_validate(await triton.get_server_metadata(headers=headers))
        described = await triton.get_model_metadata("org/echo", "1", headers=headers)
        assert ModelDescription.model_validate(described).name == "org/echo"
        assert (await triton.get_model_config("echo", headers=headers))["max_batch_size"] == 8
        assert await triton.is_model_ready("org/echo", "1", headers=headers)
        for name, version in (("asleep", ""), ("none", ""), ("echo", "9")):
            assert not await triton.is_model_ready(name, version, headers=headers)
        gateway.pool.ready = False
        assert not await triton.is_server_ready()


async def test_json_tensors_nested_or_flat_and_all_that_goes_with_them(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    asked = body(
        tensor("a", [2, 2], "INT32", data=[[1, 2], [3, 4]], parameters={"p": 1}),
        tensor("b", [2, 2], "FP64", data=[0.1, 2, 3, 4e300]),
        tensor("c", [0, 3], "UINT8", data=[]),
        tensor("d", [], "BOOL", data=[True]),
        id="x",
        parameters={"priority": 3, "flag": True, "rate": 0.5, "name": "n"},
        outputs=[{"name": "a"}],
    )
    answer = (await http.post(INFER, json=asked)).json()
    InferResponse.model_validate(answer)
    assert answer["id"] == "x"
    assert [each["data"] for each in answer["outputs"]] == [[1, 2, 3, 4], [0.1, 2.0, 3.0, 4e300], [], [True]]
    sent = oip.ModelInferRequest.FromString(gateway.pool.requests[-1])
    assert sent.raw_input_contents[0] == struct.pack("<4i", 1, 2, 3, 4)
    assert sent.inputs[0].parameters["p"].int64_param == 1
    assert [sent.parameters[name].WhichOneof("parameter_choice") for name in ("priority", "flag", "rate", "name")] == [
        "int64_param", "bool_param", "double_param", "string_param",
    ]  # fmt: skip
    assert [each.name for each in sent.outputs] == ["a"]


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("INT8", [-128, 127], [-129, 128, 1.0, True, "1", None, [1]]),
        ("INT16", [-(2**15), 2**15 - 1], [2**15]),
        ("INT32", [-(2**31), 2**31 - 1], [2**31]),
        ("INT64", [-(2**63), 2**63 - 1], [2**63, 10**400]),
        ("UINT8", [0, 255], [-1, 256]),
        ("UINT16", [0, 2**16 - 1], [2**16]),
        ("UINT32", [0, 2**32 - 1], [2**32, -1]),
        ("UINT64", [0, 2**64 - 1], [2**64, -1]),
        ("FP32", [1, -0.5], [1e39, True, "1", 10**400]),
        ("FP64", [1, -0.5], [False, None, 10**400]),
        ("BOOL", [True, False], [1, 0, "true"]),
        ("BYTES", ["a", "ü"], [1, True, ["a"]]),
    ],
)
async def test_values_are_of_their_datatype(http: httpx.AsyncClient, datatype: str, good: Any, bad: Any) -> None:
    answer = await http.post(INFER, json=body(tensor(datatype=datatype, data=good)))
    assert answer.json()["outputs"][0]["data"] == good
    for value in bad:
        answer = await http.post(INFER, json=body(tensor(datatype=datatype, data=[good[0], value])))
        assert answer.status_code == 400, value
        assert "inputs[0]" in OipError.model_validate(answer.json()).error or datatype in answer.json()["error"]


WRONG: list[tuple[Any, str]] = [
    ([], "has to be an object"),
    ({}, "inputs"),
    (body(), "inputs"),
    ({"inputs": {}}, "inputs"),
    ({"inputs": [5]}, "inputs[0]"),
    (body(tensor(data=[1, 2]), tensor(data=[1, 2])), "name of its own"),
    (body(tensor(data=[1, 2]), wat=1), "wat"),
    (body(tensor(data=[1, 2], wat=1)), "inputs[0].wat"),
    (body(tensor("", data=[1, 2])), "inputs[0].name"),
    (body(tensor(datatype="INT128", data=[1, 2])), "inputs[0].datatype"),
    (body(tensor(datatype=["INT8"], data=[1, 2])), "inputs[0].datatype"),
    (body(tensor(datatype="FP16", data=[1, 2])), "binary"),
    (body(tensor(datatype="BF16", data=[1, 2])), "binary"),
    (body(tensor(shape=[-1], data=[1, 2])), "dimension"),
    (body(tensor(shape=[2.0], data=[1, 2])), "dimension"),
    (body(tensor(shape=[True], data=[1])), "dimension"),
    (body({"name": "in", "shape": 2, "datatype": "INT8", "data": [1, 2]}), "inputs[0].shape"),
    (body(tensor(shape=[1] * 17, data=[1])), "inputs[0].shape"),
    (body(tensor(shape=[2**62] * 16, data=[1])), "the shape holds"),
    (body(tensor(shape=[3], data=[1, 2])), "3 values and 2"),
    (body(tensor(shape=[2, 2], data=[[1, 2], [3]])), "nested"),
    (body(tensor(shape=[2, 2], data=[[1, 2], 3])), "nested"),
    (body(tensor(shape=[2], data=[[1], [2]])), "nested"),
    (body(tensor(data={"0": 1})), "inputs[0].data"),
    (body(tensor()), "neither"),
    (body(tensor(parameters={"binary_data_size": 8})), "binary_data_size"),
    (body(tensor(parameters={"binary_data_size": -1})), "binary_data_size"),
    (body(tensor(parameters={"binary_data_size": True})), "binary_data_size"),
    (body(tensor(data=[1, 2], parameters={"binary_data_size": 0})), "no `data` beside"),
    (body(tensor(data=[1, 2], parameters={"shared_memory_region": "r"})), "shared memory"),
    (body(tensor(data=[1, 2], parameters={"x": [1]})), "parameter"),
    (body(tensor(data=[1, 2], parameters={"x": 2**70})), "parameter"),
    (body(tensor(data=[1, 2], parameters=[])), "object"),
    (body(tensor(data=[1, 2]), outputs=[{}]), "outputs[0].name"),
    (body(tensor(data=[1, 2]), outputs=[{"name": "a", "parameters": {"binary_data": 1}}]), "binary_data"),
    (body(tensor(data=[1, 2]), parameters={"binary_data_output": "yes"}), "binary_data_output"),
    (body(tensor(data=[1, 2]), id=5), "id"),
]


@pytest.mark.parametrize(("asked", "said"), WRONG)
async def test_what_is_wrong_is_said_in_oips_form(http: httpx.AsyncClient, gateway: Gateway, asked, said: str) -> None:
    answer = await http.post(INFER, json=asked)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert said in answer.json()["error"]
    assert gateway.pool.requests == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": [], "inputs": []}',
        b'{"inputs": [{"name": "a", "name": "b"}]}',
        b'{"inputs": NaN}',
        b'{"id": "\\ud800"}',
        b'{"id": 1' + b"0" * 10_000 + b"}",
    ],
)
async def test_bodies_that_are_no_request(http: httpx.AsyncClient, content: bytes) -> None:
    answer = await http.post(INFER, content=content)
    assert answer.status_code == 400
    assert isinstance(OipError.model_validate(answer.json()).error, str)


def binary(header: dict[str, Any], data: bytes, length: Any = None) -> dict[str, Any]:
    text = json.dumps(header).encode()
    return {"content": text + data, "headers": {HEADER_LENGTH: str(len(text) if length is None else length)}}


SIXTEEN = tensor(parameters={"binary_data_size": 16})


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (binary(body(SIXTEEN), bytes(15)), "binary_data_size"),
        (binary(body(SIXTEEN), bytes(17)), "17 bytes of binary data"),
        (binary(body(tensor(parameters={"binary_data_size": 8})), bytes(8)), "the shape needs 16 bytes"),
        (binary(body(tensor(data=[1, 2])), b"x"), "1 bytes of binary data"),
        (binary(body(SIXTEEN), bytes(16), length="+5"), HEADER_LENGTH),
        (binary(body(SIXTEEN), bytes(16), length="-1"), HEADER_LENGTH),
        (binary(body(SIXTEEN), bytes(16), length="9" * 30), HEADER_LENGTH),
        (binary(body(SIXTEEN), bytes(16), length=10_000), HEADER_LENGTH),
        (binary(body(SIXTEEN), bytes(16), length=5), "not JSON"),
        (binary(body(SIXTEEN), bytes(16), length=0), "not JSON"),
    ],
)
async def test_binary_data_has_to_be_what_the_json_says(http: httpx.AsyncClient, sent: Any, said: str) -> None:
    answer = await http.post(INFER, **sent)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


async def test_binary_tensors_of_types_that_json_lacks(http: httpx.AsyncClient) -> None:
    half = tensor(datatype="FP16", parameters={"binary_data_size": 4})
    answer = await http.post(INFER, **binary(body(half), b"\x00\x3c\x00\x40"))
    assert answer.status_code == 400
    assert "ask for binary data" in answer.json()["error"]
    answer = await http.post(INFER, **binary(body(half, parameters={"binary_data_output": True}), b"\x00\x3c\x00\x40"))
    length = int(answer.headers[HEADER_LENGTH])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content[length:] == b"\x00\x3c\x00\x40"
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 4}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_compressed_bodies_are_refused_by_name(http: httpx.AsyncClient, encoding: str) -> None:
    answer = await http.post(INFER, content=b"\x1f\x8b", headers={"Content-Encoding": encoding})
    assert answer.status_code == 415
    assert "compressed" in answer.json()["error"]


async def test_binary_without_the_length_of_its_json_is_no_json(http: httpx.AsyncClient) -> None:
    answer = await http.post(INFER, content=b"{}xx", headers={"Content-Type": "application/octet-stream"})
    assert (answer.status_code, "not JSON" in answer.json()["error"]) == (400, True)


def test_much_json_is_told_to_come_as_binary_data() -> None:
    with pytest.raises(TooLarge, match="binary"):
        read_request("echo", "", b" " * (LARGEST_JSON + 1), memoryview(b""))


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (oip.ModelInferResponse(raw_output_contents=[b"x"]), 503),
        (oip.ModelInferResponse(outputs=[{"name": "a", "datatype": "BYTES", "shape": [1]}],
                                raw_output_contents=[b"\x01\x00\x00\x00\xff"]), 400),
        (oip.ModelInferResponse(outputs=[{"name": "a", "datatype": "WAT", "shape": [1]}],
                                raw_output_contents=[b""]), 400),
    ],
)  # fmt: skip
async def test_answers_that_have_no_form_in_json(
    http: httpx.AsyncClient, gateway: Gateway, answer, status: int
) -> None:
    gateway.pool.answer = answer.SerializeToString()
    response = await http.post(INFER, json=body(tensor(data=[1, 2])))
    assert response.status_code == status
    assert response.json().keys() == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/none/config", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/none/versions/1/infer", 404),
        ("GET", "/v2/models/none/ready", 503),
        ("GET", "/v2/models//ready", 400),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/", 404),
        ("PUT", "/v2", 405),
        ("GET", INFER, 404),
    ],
)
async def test_what_is_not_there_is_said_in_oips_form(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await http.request(method, path, json=body(tensor(data=[1, 2])) if method == "POST" else None)
    assert response.status_code == status
    assert response.json().keys() == {"error"}
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("models", "model", "status"),
    [(("org/*",), "org/echo", 200), (("org/*",), "echo", 404), (("m*",), "org/echo", 404)],
)
async def test_the_allowlist_of_the_key_holds(gateway: Gateway, models, model: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {await gateway.key_for(*models)}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as restricted:
        assert (await restricted.get(f"/v2/models/{model}")).status_code == status
        asked = body(tensor(data=[1, 2]))
        assert (await restricted.post(f"/v2/models/{model}/infer", json=asked)).status_code == status


async def test_nothing_but_health_opens_without_a_key(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as anonymous:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await anonymous.get(path)).status_code == 200
        for path in ("/v2", "/v2/models/echo", "/v2/models/echo/ready"):
            response = await anonymous.get(path)
            assert response.status_code == 401
            assert response.json().keys() == {"error"}


FAILURES: list[tuple[Callable[[], Exception], int, str | None]] = [
    (lambda: Unavailable("full", reason="queue_full", retry_after_s=7), 503, "7"),
    (lambda: QuotaExceeded("enough", retry_after_s=1e9), 429, "120"),
    (lambda: ZeroDivisionError("secret"), 500, None),
]


@pytest.mark.parametrize(("failure", "status", "retry_after"), FAILURES)
async def test_failures_of_the_pool(
    http: httpx.AsyncClient, gateway: Gateway, failure, status: int, retry_after
) -> None:
    gateway.pool.failure = failure()
    response = await http.post(INFER, json=body(tensor(data=[1, 2])))
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry_after)
    assert "secret" not in response.text


async def test_the_pool_not_ready_is_a_503_that_says_when_to_ask_again(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.pool.ready = False
    response = await http.get("/v2/health/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def test_a_large_binary_tensor_costs_little(http: httpx.AsyncClient, gateway: Gateway) -> None:
    values = bytes(900_000)
    many = tensor(shape=[112_500], parameters={"binary_data_size": len(values)})
    sent = binary(body(many, parameters={"binary_data_output": True}), values)
    await http.post(INFER, **sent)
    start = time.process_time()
    response = await http.post(INFER, **sent)
    assert response.content.endswith(values)
    assert time.process_time() - start < 0.5
    assert oip.ModelInferRequest.FromString(gateway.pool.requests[-1]).raw_input_contents[0] == values
