"""The process itself: settings, start, one call end to end, stop."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from servicekit.errors import Unavailable
from servicekit.rpc import Channel
from servicekit.testing import PUBLIC_KEY_PEM, caller, eventually, serving
from tokenizers import Tokenizer, models, pre_tokenizers

from services.embedding.tests.tiny_model import TinyModel, tiny_service


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "key.pem").write_bytes(PUBLIC_KEY_PEM)
    return {
        "EMBEDDING_MODEL": "tiny",
        "EMBEDDING_ADDRESS": f"127.0.0.1:{free_port()}",
        "EMBEDDING_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "EMBEDDING_TOKENIZER_FILE": str(tmp_path / "tokenizer.json"),
        "EMBEDDING_IDENTITY_PUBLIC_KEY_FILE": str(tmp_path / "key.pem"),
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def start(environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "embedding.main", env=environment, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("name", "value"), [("EMBEDDING_TOKENIZER_FILE", "/nowhere/tokenizer.json"), ("EMBEDDING_BATCH_TEXTS", "0")]
)
async def test_a_wrong_setting_stops_the_start(environment: dict[str, str], name: str, value: str) -> None:
    process = await start(environment | {name: value})
    _, output = await process.communicate()
    assert process.returncode == 2
    assert output.decode().startswith(f"embedding: {name}: ")


async def test_starts_embeds_and_stops(environment: dict[str, str]) -> None:
    model = TinyModel()
    async with serving(tiny_service(model)) as inference:
        process = await start(environment | {"EMBEDDING_INFERENCE_ADDRESS": inference})
        async with Channel(environment["EMBEDDING_ADDRESS"]) as channel:
            health = health_pb2_grpc.HealthStub(channel.grpc)

            async def ready() -> bool:
                try:
                    answer = await channel.call(health.Check, health_pb2.HealthCheckRequest())
                except Unavailable:
                    return False
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            await eventually(ready, timeout_s=20)
            stub = pb_grpc.EmbeddingServiceStub(channel.grpc)
            with caller():
                answer = await channel.call(stub.Embed, pb.EmbedRequest(texts=["a b", "b"]))
        process.send_signal(signal.SIGTERM)
        _, output = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert list(answer.token_counts) == [2, 1]
    assert answer.encoder.model == "tiny"
    assert b"ERROR" not in output
