"""The stack that the black-box tests run against, started once for all of them."""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bench")]

from compose_stack import ComposeSettings, bridge_address, running_compose  # noqa: E402
from hostile_process import Hostile, catalogue_models, catalogue_upstreams, running_hostile  # noqa: E402
from stack_process import ROOT, RunningStack, running_stack  # noqa: E402
from tenancy import Administration, session  # noqa: E402

COMPOSE = ComposeSettings()
UPSTREAM_HOST = bridge_address() if COMPOSE.compose else "127.0.0.1"
PORT_OFFSET = 10_000
UPSTREAM_PORT = 18_999
CATALOGUE = """
  - name: fast-upstream
    task: generate
    description: The benchmarks' upstream
    openai: {upstream: bench, model: bench}
    context_tokens: 32768
    queue: {max_concurrent: 64, max_waiting: 256}
    timeout_s: 20
  - name: endless-upstream
    task: generate
    description: Writes until it is left; a test runs it
    openai: {upstream: endless, model: endless}
    context_tokens: 32768
    timeout_s: 60
  - name: priced
    task: generate
    description: The hostile upstream in a good mood, at a price
    openai: {upstream: hostile, model: hostile-ok}
    context_tokens: 32768
    timeout_s: 20
    price: {input_usd_per_million: 1000, output_usd_per_million: 2000}
  - name: priced-paced
    task: generate
    description: The same, slowly
    openai: {upstream: hostile, model: hostile-ok-paced}
    context_tokens: 32768
    timeout_s: 20
    price: {input_usd_per_million: 1000, output_usd_per_million: 2000}
  - name: in-europe
    task: generate
    description: The same in a region
    openai: {upstream: hostile, model: hostile-ok}
    context_tokens: 32768
    timeout_s: 20
    region: eu
upstreams:
  bench: {base_url: "http://UPSTREAM:18999/v1"}
  endless: {base_url: "http://UPSTREAM:18998/v1"}
"""


def catalogue_with_upstreams(folder: Path, hostile: Hostile) -> Path:
    """Write the local catalogue with the fast and the hostile upstream's models in it."""
    file = folder / "catalogue.yaml"
    models, upstreams = CATALOGUE.replace("UPSTREAM", UPSTREAM_HOST).split("upstreams:\n")
    text = (ROOT / "deploy/local/catalogue.yaml").read_text().rstrip() + models + catalogue_models()
    file.write_text(f"{text}upstreams:\n{upstreams}{catalogue_upstreams(hostile.url)}")
    return file


@pytest.fixture(scope="session")
def hostile() -> Iterator[Hostile]:
    """An upstream where the model's name chooses what goes wrong."""
    with running_hostile(host=UPSTREAM_HOST) as running:
        yield running


@pytest.fixture(scope="session")
def upstream_host() -> str:
    """The address of this machine that the stack under test can reach."""
    return UPSTREAM_HOST


@pytest.fixture
def local_processes() -> None:
    """Skip what only a stack of processes has: its files, its supervisor."""
    if COMPOSE.compose:
        pytest.skip("this looks at processes of this machine, and the stack runs in containers")


@pytest.fixture(scope="session")
def stack(hostile: Hostile) -> Iterator[RunningStack]:
    """A whole stack on ports of its own, with a fast and a hostile upstream behind it."""
    command = [sys.executable, str(ROOT / "platform-tests/bench/upstream.py"), str(UPSTREAM_PORT), UPSTREAM_HOST]
    upstream = subprocess.Popen(command)
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-tests-") as folder:
            catalogue = catalogue_with_upstreams(Path(folder), hostile)
            if COMPOSE.compose:
                with running_compose(COMPOSE, Path(folder), catalogue) as containers:
                    yield containers
                return
            settings = {"PENSTOCK_CATALOGUE": str(catalogue)}
            with running_stack(Path(folder), PORT_OFFSET, settings) as running:
                yield running
    finally:
        upstream.terminate()
        upstream.wait()


@pytest.fixture
async def rest(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """A session with the gateway under the tenant's key."""
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60, trust_env=False) as session:
        yield session


@pytest.fixture
async def administration(stack: RunningStack) -> AsyncIterator[Administration]:
    """The admin API."""
    async with session(stack, stack.admin_key) as made:
        yield Administration(made)
