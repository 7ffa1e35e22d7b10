"""OIP through the gateway to a real Triton: both clients with a key, and the same numbers on every door."""

import numpy as np
import pytest
from openai import AsyncOpenAI
from stack_process import RunningStack
from tritonclient.grpc import aio as triton_grpc
from tritonclient.http import aio as triton_http
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.stack

MODEL = "minilm-l6"
TOKENS = [7592, 2088]
FRAMED = np.array([[101, *TOKENS, 102]], dtype=np.int64)


def headers(stack: RunningStack) -> dict[str, str]:
    return {"authorization": f"Bearer {stack.api_key}"}


def tensors(module) -> list:
    made = []
    for name, values in (("input_ids", FRAMED), ("attention_mask", np.ones_like(FRAMED))):
        each = module.InferInput(name, list(values.shape), "INT64")
        each.set_data_from_numpy(values)
        made.append(each)
    return made


async def test_grpc_rest_and_embeddings_give_the_same_vector(stack: RunningStack) -> None:
    grpc = triton_grpc.InferenceServerClient(stack.grpc)
    async with triton_http.InferenceServerClient(stack.url.removeprefix("http://")) as rest:
        over_grpc = await grpc.infer(MODEL, tensors(triton_grpc), headers=headers(stack), request_id="7")
        over_rest = await rest.infer(MODEL, tensors(triton_http), headers=headers(stack))
        wanted = [triton_http.InferRequestedOutput("embedding", binary_data=False)]
        as_json = await rest.infer(MODEL, tensors(triton_http), outputs=wanted, headers=headers(stack))
    await grpc.close()
    async with AsyncOpenAI(api_key=stack.api_key, base_url=f"{stack.url}/v1") as client:
        of_tokens = (await client.embeddings.create(model=MODEL, input=TOKENS)).data[0].embedding
        of_text = (await client.embeddings.create(model=MODEL, input="hello world")).data[0].embedding
    vector = over_grpc.as_numpy("embedding")[0]
    assert over_grpc.get_response().id == "7"
    for other in (over_rest.as_numpy("embedding")[0], as_json.as_numpy("embedding")[0], of_tokens, of_text):
        assert np.allclose(vector, other, atol=1e-5)


async def test_what_the_server_says_of_itself_and_of_models(stack: RunningStack) -> None:
    grpc = triton_grpc.InferenceServerClient(stack.grpc)
    async with triton_http.InferenceServerClient(stack.url.removeprefix("http://")) as rest:
        for client in (grpc, rest):
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(MODEL, headers=headers(stack))
            assert not await client.is_model_ready("nothing", headers=headers(stack))
            with pytest.raises(InferenceServerException, match="unknown model: 'nothing'"):
                await client.get_model_metadata("nothing", headers=headers(stack))
        described = await rest.get_model_metadata(MODEL, headers=headers(stack))
        config = await grpc.get_model_config(MODEL, headers=headers(stack), as_json=True)
    await grpc.close()
    assert [each["name"] for each in described["outputs"]] == ["embedding"]
    assert config["config"]["parameters"]["dimensions"]["string_value"] == "384"


async def test_nothing_runs_without_a_key(stack: RunningStack) -> None:
    grpc = triton_grpc.InferenceServerClient(stack.grpc)
    async with triton_http.InferenceServerClient(stack.url.removeprefix("http://")) as rest:
        for client, module in ((grpc, triton_grpc), (rest, triton_http)):
            with pytest.raises(InferenceServerException, match=r"(?i)key"):
                await client.infer(MODEL, tensors(module))
    await grpc.close()


async def test_a_wrong_shape_is_the_callers_fault(stack: RunningStack) -> None:
    wrong = triton_grpc.InferInput("input_ids", [1, 4], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 4), dtype=np.float32))
    client = triton_grpc.InferenceServerClient(stack.grpc)
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(MODEL, [wrong], headers=headers(stack))
    await client.close()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


async def test_no_memory_of_the_server_can_be_named(stack: RunningStack) -> None:
    shared = triton_grpc.InferInput("input_ids", [1, 4], "INT64")
    shared.set_shared_memory("somebody's", 32)
    client = triton_grpc.InferenceServerClient(stack.grpc)
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        await client.infer(MODEL, [shared], headers=headers(stack))
    with pytest.raises(InferenceServerException) as caught:
        await client.register_system_shared_memory("mine", "/anything", 32, headers=headers(stack))
    await client.close()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
