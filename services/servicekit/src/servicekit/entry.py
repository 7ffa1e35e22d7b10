"""How every service starts: settings, telemetry, event loop."""

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

import uvloop
from pydantic import ValidationError

from servicekit.errors import PenstockError
from servicekit.glibc import keep_large_blocks
from servicekit.rpc.server import AddressTaken
from servicekit.settings import ServiceSettings
from servicekit.telemetry import setup

S = TypeVar("S", bound=ServiceSettings)


def main(service: str, settings: type[S], run: Callable[[S], Awaitable[None]]) -> None:
    """Run a service to its end.

    What keeps it from starting is said in one line and exits with 2: a wrong setting, a taken address, a file that is
    not there, a certificate that is not valid, a database that cannot be used.
    """
    try:
        loaded = settings()
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        for problem in error.errors():
            name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{service}: {name}: {problem['msg']}\n")
        sys.exit(2)
    keep_large_blocks()
    setup.configure(service, loaded.log_level, loaded.otlp_endpoint, loaded.trace_file, loaded.trace_ratio)
    try:
        if loaded.tls is not None:
            loaded.tls.check(datetime.now(UTC))
        uvloop.run(_awaited(run, loaded))
    except AddressTaken as error:
        _refuse(service, str(error))
    except PenstockError as error:  # while it runs, nothing of the kind leaves the tasks of the server
        cause = "" if error.__cause__ is None else f": {str(error.__cause__).partition(chr(10))[0]}"
        _refuse(service, error.message + cause)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(service, f"{error.filename}: {error.strerror}")


def _refuse(service: str, reason: str) -> NoReturn:
    sys.stderr.write(f"{service}: {reason}\n")
    sys.exit(2)


async def _awaited(run: Callable[[S], Awaitable[None]], settings: S) -> None:
    await run(settings)
