"""Puts the pool together and runs it."""

import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from servicekit import entry
from servicekit.rpc import serve

from inference.adapters.catalogue_file import CatalogueError, CatalogueFile, ModelEntry, read_catalogue
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream
from inference.adapters.triton import TritonProber, TritonServer, TritonTensors
from inference.adapters.triton_text import TritonGenerator
from inference.api.servicer import inference_service
from inference.api.tensors import tensor_service
from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.prompts import FORMATS
from inference.core.served_model import ServedModel
from inference.settings import Settings, read_variables


async def run(settings: Settings) -> None:
    """Open the backends and serve until told to stop."""
    try:
        catalogue = read_catalogue(settings.catalogue_file).moved(settings.servers)
        keys = read_keys(catalogue)
    except CatalogueError as error:
        sys.stderr.write(f"inference: {error}\n")
        sys.exit(2)
    async with AsyncExitStack() as stack:
        pool = await open_pool(catalogue, keys, stack)
        services = [inference_service(pool, datetime.now(UTC)), tensor_service(pool)]
        await serve(settings, services, readiness=pool.readiness, background=[pool.watch], draining=pool.drain)


def read_keys(catalogue: CatalogueFile) -> dict[str, str]:
    """Return the key of each upstream that has one; raise CatalogueError when it is not where the catalogue says."""
    upstreams = catalogue.upstreams
    variables = read_variables([each.api_key_env for each in upstreams.values() if each.api_key_env])
    keys: dict[str, str] = {}
    for name, upstream in upstreams.items():
        if upstream.api_key_file:
            keys[name] = _read_key(f"upstreams.{name}.api_key_file", upstream.api_key_file)
        elif upstream.api_key_env and upstream.api_key_env not in variables:
            raise CatalogueError(f"upstreams.{name}.api_key_env: the variable {upstream.api_key_env} is not set")
        elif upstream.api_key_env:
            keys[name] = variables[upstream.api_key_env].get_secret_value()
        if not _fits_a_header(keys.get(name, "")):
            raise CatalogueError(f"upstreams.{name}: the key holds what no header may hold")
    return keys


def _fits_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable()


async def open_pool(catalogue: CatalogueFile, keys: dict[str, str], stack: AsyncExitStack) -> Pool:
    """Return the pool of a catalogue; its connections are closed with the stack."""
    servers = {
        name: await stack.enter_async_context(TritonServer(each.address)) for name, each in catalogue.servers.items()
    }
    upstreams = {
        name: await stack.enter_async_context(OpenAIUpstream(each.base_url, keys.get(name), each.patience()))
        for name, each in catalogue.upstreams.items()
    }
    return Pool(_served(each, servers, upstreams) for each in catalogue.models)


def _served(entry_: ModelEntry, servers: dict[str, TritonServer], upstreams: dict[str, OpenAIUpstream]) -> ServedModel:
    model = entry_.model()
    if entry_.openai:
        target = entry_.openai
        generator = OpenAIGenerator(upstreams[target.upstream], target.model, model.name, target.limit_field)
        return ServedModel(model, generator=generator, state=ModelState(ready=True, version=target.model))
    assert entry_.triton is not None, "the catalogue gives a model exactly one target"
    server, name = servers[entry_.triton.server], entry_.triton.model
    writes = model.task is Task.GENERATE
    return ServedModel(
        model,
        generator=TritonGenerator(server, name, model.name, FORMATS[entry_.triton.prompt]) if writes else None,
        tensors=TritonTensors(server, name, model.name),
        prober=TritonProber(server, name),
    )


def _read_key(field: str, path: Path) -> str:
    try:
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{field}: {error}") from error
    if not key:
        raise CatalogueError(f"{field}: {path} is empty")
    return key


def main() -> None:
    """Run the service from the command line."""
    entry.main("inference", Settings, run)


if __name__ == "__main__":
    main()
