"""What a real Triton has counted of a model, and what is told when it counts nothing for us."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from inference.adapters.triton import TritonServer, TritonTensors
from inference.adapters.triton_statistics import TritonExecutions
from inference.core.execution import Execution
from tritonclient.grpc import service_pb2 as oip


@pytest.fixture
async def server(triton_address: str) -> AsyncIterator[TritonServer]:
    async with TritonServer(triton_address) as connection:
        yield connection


async def test_rows_and_batches_are_counted(server: TritonServer) -> None:
    executions = TritonExecutions(server, "minilm-l6")
    before = await executions.read(5.0)
    request = oip.ModelInferRequest(model_name="minilm-l6")
    ids = np.array([[101, 7592, 102]] * 3, np.int64)
    for name, values in (("input_ids", ids), ("attention_mask", np.ones_like(ids))):
        request.inputs.add(name=name, datatype="INT64", shape=ids.shape)
        request.raw_input_contents.append(values.tobytes())
    await TritonTensors(server, "minilm-l6", "minilm-l6").infer(request.SerializeToString(), 5.0)
    after = await executions.read(5.0)
    assert before is not None
    assert after is not None
    assert after.inferences - before.inferences == 3
    assert after.executions - before.executions == 1
    assert after.batches[3] - before.batches.get(3, 0) == 1
    assert sum(after.batches.values()) == after.executions


async def test_nothing_is_told_of_an_unknown_model_or_by_a_server_that_is_away(server: TritonServer) -> None:
    assert await TritonExecutions(server, "nope").read(5.0) is None
    async with TritonServer("127.0.0.1:1") as away:
        assert await TritonExecutions(away, "minilm-l6").read(0.5) is None


def test_servers_are_added_up() -> None:
    one, other = Execution(5, 2, {1: 1, 4: 1}, 3, 4), Execution(4, 1, {4: 1}, 1, 0)
    assert Execution.sum([one, other]) == Execution(9, 3, {1: 1, 4: 2}, 4, 4)
