"""How every service starts: settings, telemetry, event loop."""

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop
from pydantic import ValidationError

from servicekit.rpc.server import AddressTaken
from servicekit.settings import ServiceSettings
from servicekit.telemetry import setup

S = TypeVar("S", bound=ServiceSettings)


def main(service: str, settings: type[S], run: Callable[[S], Awaitable[None]]) -> None:
    """Run a service to its end; a wrong setting or a taken address is said in one line and exits with 2."""
    try:
        loaded = settings()
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        for problem in error.errors():
            name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{service}: {name}: {problem['msg']}\n")
        sys.exit(2)
    setup.configure(service, loaded.log_level, loaded.otlp_endpoint, loaded.trace_file, loaded.trace_ratio)
    try:
        uvloop.run(_awaited(run, loaded))
    except AddressTaken as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(2)


async def _awaited(run: Callable[[S], Awaitable[None]], settings: S) -> None:
    await run(settings)
