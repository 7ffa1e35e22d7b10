"""What the list of models tells of region, abilities and price: what the gateway routes and bills by."""

from datetime import UTC, datetime

from inference.api.servicer import inference_service
from inference.core.catalogue import Price
from inference.core.pool import Pool
from inference_fakes import FakeGenerator, generating
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.rpc import Channel
from servicekit.testing import caller, serving


async def test_a_model_tells_where_it_runs_what_it_can_and_what_it_costs() -> None:
    dear = generating(
        FakeGenerator(),
        "dear",
        region="eu-west",
        capabilities=frozenset({"tools", "n"}),
        price=Price(150_000, 600_000),
    )
    free = generating(FakeGenerator(), "free", capabilities=frozenset())
    service = inference_service(Pool([dear, free]), datetime(2026, 1, 2, tzinfo=UTC))
    async with serving(service) as address, Channel(address) as channel:
        with caller(scopes=()):
            stub = pb_grpc.InferenceServiceStub(channel.grpc)
            listed = await channel.call(stub.ListModels, pb.ListModelsRequest())
            one = await channel.call(stub.GetModel, pb.GetModelRequest(name="dear"))
    first, second = listed.models
    assert (first.region, list(first.capabilities)) == ("eu-west", ["n", "tools"])
    assert first.price == pb.Price(input_micros_per_million=150_000, output_micros_per_million=600_000)
    assert one.model == first
    assert (second.region, list(second.capabilities), second.HasField("price")) == ("", [], False)
