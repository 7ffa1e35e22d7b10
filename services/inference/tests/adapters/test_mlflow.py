"""Versions of an MLflow registry: on a fake of its API and, where PENSTOCK_TEST_MLFLOW names one, on a real server."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from inference.adapters.mlflow import LARGEST_ANSWER_BYTES, MlflowRegistry
from inference.core.version_ports import Imported
from inference_mlflow_fakes import API, FakeMlflow
from inference_version_fakes import digest
from pydantic_settings import BaseSettings, SettingsConfigDict
from servicekit.errors import InvalidInput, NotFound, Unavailable


class Servers(BaseSettings):
    """Real servers that tests may use: PENSTOCK_TEST_MLFLOW is the URL of a tracking server."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_TEST_")
    mlflow: str = ""


@dataclass(frozen=True)
class Seeded:
    """A registry with a model of two versions, the first the champion, with a digest; and its client."""

    model: str
    registry: MlflowRegistry


@pytest.fixture(params=["fake", "real"] if Servers().mlflow else ["fake"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "real":
        yield Servers().mlflow
        return
    async with FakeMlflow().running() as address:
        yield address


@pytest.fixture
async def seeded(url: str) -> AsyncIterator[Seeded]:
    model = f"encoder {secrets.token_hex(4)}"
    async with aiohttp.ClientSession(raise_for_status=True) as session:

        async def post(path: str, **body: object) -> None:
            async with session.post(f"{url}{API}/{path}", json=body) as response:
                await response.read()

        await post("registered-models/create", name=model)
        tags = [{"key": "digest", "value": digest(7).removeprefix("sha256:")}, {"key": "other", "value": "x"}]
        await post("model-versions/create", name=model, source="s3://models/one", tags=tags)
        await post("model-versions/create", name=model, source="s3://models/two")
        await post("registered-models/alias", name=model, alias="champion", version="1")
    async with MlflowRegistry.open(url + "/") as registry:
        yield Seeded(model, registry)


async def test_an_alias_stands_for_a_version_with_its_digest(seeded: Seeded) -> None:
    found = await seeded.registry.resolve(f"models:/{seeded.model}@champion")
    source = f"mlflow models:/{seeded.model}@champion, version 1, run none, s3://models/one"
    assert found == Imported("1", digest(7), source)


async def test_a_version_is_found_by_number_and_may_have_no_digest(seeded: Seeded) -> None:
    found = await seeded.registry.resolve(f"models:/{seeded.model}/2")
    assert (found.name, found.digest) == ("2", "")


async def test_what_is_not_there_is_not_found(seeded: Seeded) -> None:
    for uri in (f"models:/{seeded.model}@nobody", f"models:/{seeded.model}/9", "models:/no-such@champion"):
        with pytest.raises(NotFound) as caught:
            await seeded.registry.resolve(uri)
        assert (caught.value.field, caught.value.reason) == ("uri", "version_not_found")


@pytest.mark.parametrize(
    "uri",
    ["", "encoder", "models:/", "models:/encoder", "models:/a/b/1", "models:/a@b@c", "runs:/1/model", "models:/a/1\n",
     "models:/a/latest", "http://elsewhere/models:/a@b"],
)  # fmt: skip
async def test_other_forms_are_refused_unasked(uri: str) -> None:
    fake = FakeMlflow()
    async with fake.running() as address, MlflowRegistry.open(address) as registry:
        with pytest.raises(InvalidInput) as caught:
            await registry.resolve(uri)
    assert (caught.value.field, fake.authorizations) == ("uri", [])


@pytest.mark.parametrize(
    "broken",
    [
        (500, b"{}"),
        (401, b"who?"),
        (302, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"model_version": {"version": "../1"}}'),
        (200, b'{"model_version": "x"}'),
        (200, b" " * (LARGEST_ANSWER_BYTES + 1)),
    ],
)
async def test_a_registry_that_does_not_behave_is_unavailable(broken: tuple[int, bytes]) -> None:
    fake = FakeMlflow()
    fake.broken = broken
    async with fake.running() as address, MlflowRegistry.open(address) as registry:
        with pytest.raises(Unavailable) as caught:
            await registry.resolve("models:/a@b")
    assert caught.value.reason == "mlflow_failed"


async def test_one_that_is_not_there_is_unavailable_and_no_token_is_told() -> None:
    async with MlflowRegistry.open("http://127.0.0.1:1", "sesame") as registry:
        with pytest.raises(Unavailable) as caught:
            await registry.resolve("models:/a@b")
    assert "sesame" not in str(caught.value)


async def test_the_token_is_sent() -> None:
    fake = FakeMlflow()
    async with fake.running() as address, MlflowRegistry.open(address, "sesame") as registry:
        with pytest.raises(NotFound):
            await registry.resolve("models:/a@b")
    assert fake.authorizations == ["Bearer sesame"]


async def test_a_version_that_is_not_ready_is_refused() -> None:
    fake = FakeMlflow()
    fake.broken = (200, b'{"model_version": {"version": "3", "status": "PENDING_REGISTRATION"}}')
    async with fake.running() as address, MlflowRegistry.open(address) as registry:
        with pytest.raises(InvalidInput) as caught:
            await registry.resolve("models:/a@b")
    assert caught.value.reason == "not_ready"
