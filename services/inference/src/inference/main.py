"""Puts the pool together and runs it."""

import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from servicekit import entry, identity
from servicekit.landed import Land
from servicekit.rpc import Service, serve

from inference.adapters.catalogue_file import (
    CatalogueError,
    CatalogueFile,
    ModelEntry,
    OpenAITarget,
    ServerEntry,
    TritonTarget,
    read_catalogue,
    read_golden_file,
)
from inference.adapters.footprint_file import FootprintFile
from inference.adapters.kubernetes import ClusterAccess, KubernetesAddresses
from inference.adapters.mlflow import MlflowRegistry
from inference.adapters.model_folder import ModelFolder
from inference.adapters.oip import OipLabels, compare
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream
from inference.adapters.openai_probe import OpenAIProber
from inference.adapters.pair_tensors import PairTensors
from inference.adapters.process_memory import ProcessMemory
from inference.adapters.replica_addresses import DnsAddresses
from inference.adapters.residency_entry import ResidencyEntry
from inference.adapters.shared_tensors import is_near
from inference.adapters.tensor_memory import TensorMemory
from inference.adapters.triton import TritonProber, TritonServer, TritonTensors
from inference.adapters.triton_arrays import TritonArrays
from inference.adapters.triton_bls import BlsGenerator
from inference.adapters.triton_golden import read_golden
from inference.adapters.triton_metrics import DeviceMemory
from inference.adapters.triton_repository import TritonRepository
from inference.adapters.triton_statistics import TritonExecutions
from inference.adapters.triton_text import TritonGenerator
from inference.adapters.version_sql import SqlVersions
from inference.api.asker import current_asker
from inference.api.caller import SHADOW, current_caller
from inference.api.capacity import capacity_service
from inference.api.rank import rank_service
from inference.api.replicas import replica_service
from inference.api.residency import residency_service
from inference.api.score import score_service
from inference.api.servicer import inference_service
from inference.api.tensors import tensor_service
from inference.api.version_servicer import version_service
from inference.core.advisor import Advisor
from inference.core.catalogue import Task
from inference.core.discovery import Discovery
from inference.core.footprints import Footprints
from inference.core.pool import Pool
from inference.core.ports import Addresses, Generator, ModelState
from inference.core.prompts import FORMATS
from inference.core.ranking import Ranker
from inference.core.registry import Registry
from inference.core.replica import Backend, Replica, Server
from inference.core.replicas import Replicas
from inference.core.replicated import Attempts, ReplicatedGenerator, ReplicatedTensors
from inference.core.residency import Residency
from inference.core.resident import Residence, prove
from inference.core.scoring import Scorer
from inference.core.served_model import ServedModel
from inference.core.shadow import Mirror, Speech
from inference.core.versioned_pool import VersionedPool
from inference.settings import Settings, read_variables

log = logging.getLogger(__name__)
CLUSTER: Final = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes tells each pod how to reach its API."""
Background = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServerGroup:
    """A server of the catalogue: its addresses, what loads models there if anything does, and the models' replicas.

    `files` are those of the models that are loaded on request, where they can be read.
    """

    discovery: Discovery[TritonServer]
    residency: Residency | None
    replicas: dict[str, list[Replicas]]
    files: ModelFolder | None = None


Servers = dict[str, ServerGroup]


async def run(settings: Settings) -> None:
    """Open the backends and serve until told to stop."""
    try:
        await _run(settings)
    except CatalogueError as error:
        sys.stderr.write(f"inference: {error}\n")
        sys.exit(2)


async def _run(settings: Settings) -> None:
    catalogue = read_catalogue(settings.catalogue_file).moved(settings.servers)
    keys = read_keys(catalogue)
    async with AsyncExitStack() as stack:
        opened = await open_pool(catalogue, keys, settings.catalogue_file.parent, stack)
        pool = opened.pool
        versions = await open_versions(settings, pool, stack)
        named = versions.pool
        tensors = tensor_service(named, _place_for_tensors(catalogue, settings.tensor_memory_mib, stack))
        services = [inference_service(named, datetime.now(UTC)), tensors, replica_service(pool)]
        services.append(versions.service)
        advisor = Advisor(pool.models)
        services += [capacity_service(pool, advisor), score_service(pool, Scorer(named.infer))]
        services.append(rank_service(named, Ranker(named.infer, PairTensors())))
        services.append(residency_service(opened.residencies))
        background = [pool.watch, advisor.watch, *opened.background, *versions.background]
        await serve(settings, services, readiness=pool.readiness, background=background, draining=pool.drain)


@dataclass(frozen=True, slots=True)
class OpenedPool:
    """The pool, what loads models on request, by the name of the servers, and what has to run beside them."""

    pool: Pool
    residencies: dict[str, Residency]
    background: list[Background]


@dataclass(frozen=True, slots=True)
class OpenedVersions:
    """The pool under the names callers use, the service that changes what they mean, and what has to run beside it."""

    pool: VersionedPool
    service: Service
    background: list[Background]


async def open_versions(settings: Settings, pool: Pool, stack: AsyncExitStack) -> OpenedVersions:
    """Open the store of versions and put them before the pool; nothing is served before the roles are known."""
    store = await stack.enter_async_context(SqlVersions.open(settings.database))
    entries = {served.model.name: served for served in pool.models()}
    registry = Registry(store, entries)
    await registry.refresh()
    labels = OipLabels()
    mirror = Mirror(pool, entries, Speech(labels.asked, compare), store)
    elsewhere = None
    if settings.mlflow_url:
        token = settings.mlflow_token.get_secret_value()
        elsewhere = await stack.enter_async_context(MlflowRegistry.open(settings.mlflow_url, token))

    async def mirroring() -> None:
        with identity.acting_as(SHADOW):
            await mirror.run()

    versioned = VersionedPool(pool, registry.traffic, mirror, labels, current_caller)
    service = version_service(registry, store, elsewhere)
    return OpenedVersions(versioned, service, [registry.watch, mirroring])


def _place_for_tensors(catalogue: CatalogueFile, mib: int, stack: AsyncExitStack) -> Land | None:
    """Return where large requests are received, if a Triton on this machine could read them there."""
    addresses = [address for server in catalogue.servers.values() for address in server.fixed()]
    if not mib or not any(map(is_near, addresses)):
        return None
    try:
        return stack.enter_context(TensorMemory.open(mib << 20)).take
    except OSError as error:
        log.warning("large tensors go over the wire: no memory can be shared: %s", error)
        return None


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


async def open_pool(catalogue: CatalogueFile, keys: dict[str, str], folder: Path, stack: AsyncExitStack) -> OpenedPool:
    """Return the pool of a catalogue that lies in `folder`; its connections are closed with the stack."""
    servers: Servers = {}
    background: list[Background] = []
    for name, server in catalogue.servers.items():
        discovery = Discovery(name, lambda address: TritonServer(address).open(), server.timing())
        stack.push_async_callback(discovery.close)
        discovery.apply(server.fixed())
        addresses = _followed(name, server)
        if addresses:
            background.append(partial(discovery.follow, addresses))
        group = servers[name] = _group(discovery, server.residency, catalogue.models_of(name), folder)
        if group.residency is not None:
            discovery.tell(group.residency)
            background.append(group.residency.run)
    upstreams = {
        name: await stack.enter_async_context(OpenAIUpstream(each.base_url, keys.get(name), each.patience()))
        for name, each in catalogue.upstreams.items()
    }
    models = [
        _hosted(each, each.openai, upstreams, folder) if each.openai else _replicated(each, servers, folder)
        for each in catalogue.models
    ]
    residencies = {name: group.residency for name, group in servers.items() if group.residency is not None}
    return OpenedPool(Pool(models), residencies, background)


def _group(
    discovery: Discovery[TritonServer], entry_: ResidencyEntry | None, models: frozenset[str], folder: Path
) -> ServerGroup:
    """Return the group; what is kept of it lies in the catalogue's `folder`."""
    replicas: dict[str, list[Replicas]] = {}
    if entry_ is None or not entry_.managed:
        return ServerGroup(discovery, None, replicas)
    files = ModelFolder(folder / entry_.repository) if entry_.repository else None
    store = FootprintFile(folder / entry_.footprints if entry_.footprints else None)

    def connect(address: str) -> TritonRepository:
        port = entry_.metrics_port
        return TritonRepository(address, files, DeviceMemory(address, port) if port else ProcessMemory(address))

    async def proven(model: str, address: str) -> str:
        found = [replica for each in replicas.get(model, ()) if (replica := each.at(address)) is not None]
        return next(filter(None, [await prove(replica) for replica in found]), "")

    residency = Residency(entry_.policy(models), Footprints(store, entry_.assumed()), connect, proven)
    return ServerGroup(discovery, residency, replicas, files)


def _followed(name: str, server: ServerEntry) -> Addresses | None:
    """Return what tells a server's addresses as they change; nothing where they are written down."""
    if server.dns:
        return DnsAddresses(server.dns)
    if server.kubernetes is None:
        return None
    found = read_variables(CLUSTER)
    if len(found) < len(CLUSTER):
        raise CatalogueError(f"servers.{name}.kubernetes: this process does not run in a pod: {CLUSTER[0]} is not set")
    host, port = (found[variable].get_secret_value() for variable in CLUSTER)
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    access = ClusterAccess(url, SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt")
    place = server.kubernetes
    return KubernetesAddresses(access, place.namespace, place.service, place.port)


def _hosted(
    entry_: ModelEntry, target: OpenAITarget, upstreams: dict[str, OpenAIUpstream], folder: Path
) -> ServedModel:
    model, probe = entry_.model(), target.probe
    generator = OpenAIGenerator(upstreams[target.upstream], target.model, model.name, target.limit_field)
    if probe is None:
        state = ModelState(ready=True, version=target.model)
        return ServedModel(model, generator=generator, state=state, asker=current_asker)
    text = read_golden_file(probe, folder)
    golden = read_golden(text, None, writes=True) if text else None
    replicas = Replicas(model.name)
    backend = Backend(generator=generator, prober=OpenAIProber(generator, target.model, golden))
    replicas.join(Replica(model.name, Server(f"upstream {target.upstream}"), backend, timing=probe.timing()))
    probed = ReplicatedGenerator(Attempts(replicas), affinity=False)
    return ServedModel(model, generator=probed, replicas=replicas, asker=current_asker)


def _replicated(entry_: ModelEntry, servers: Servers, folder: Path) -> ServedModel:
    model, target = entry_.model(), entry_.triton
    assert target is not None, "the catalogue gives a model exactly one target"
    writes, golden = model.task is Task.GENERATE, read_golden_file(target, folder)

    def backend(server: TritonServer) -> Backend:
        return Backend(
            tensors=TritonTensors(server, target.model, model.name),
            generator=_writer(server, target, model.name) if writes else None,
            prober=TritonProber(server, target.model, golden, writes=writes),
            arrays=TritonArrays(server, target.model, model.name),
            executions=TritonExecutions(server, target.model),
        )

    group = servers[target.server]
    replicas = Replicas(model.name, held=group.residency is not None)
    if group.residency is not None:
        replicas.memory = partial(group.residency.memory_of, target.model)
    if group.files is not None:
        replicas.declare(*group.files.declared(target.model))
    group.replicas.setdefault(target.model, []).append(replicas)
    group.discovery.serve(replicas, backend)
    attempts = Residence(group.residency, target.model, replicas) if group.residency else Attempts(replicas)
    return ServedModel(
        model,
        asker=current_asker,
        generator=ReplicatedGenerator(attempts, affinity=target.affinity == "prefix") if writes else None,
        tensors=ReplicatedTensors(attempts),
        replicas=replicas,
    )


def _writer(server: TritonServer, target: TritonTarget, name: str) -> Generator:
    prompt = FORMATS[target.prompt]
    if target.tensors == "tensorrt_llm":
        return BlsGenerator(server, target.model, name, prompt, cumulative=target.cumulative)
    return TritonGenerator(server, target.model, name, prompt)


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
