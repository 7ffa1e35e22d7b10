"""Starts the service of this image: puts mounted secrets and certificates where its settings look, then becomes it.

A container whose memory limit could not even hold the idle service is refused: the kernel would end it again and again.
"""

import os
import sys
from collections.abc import Iterable, MutableMapping
from pathlib import Path

SECRETS = Path("/etc/penstock/secrets")
CERTIFICATES = Path("/etc/penstock/tls")
TLS_FILES = {"TLS_CERTIFICATE_FILE": "tls.crt", "TLS_KEY_FILE": "tls.key", "TLS_CA_FILE": "ca.crt"}
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container, in bytes. Without one, cgroups of version 2 say `max`, of version 1 more than any machine has."""

LEAST_MIB = {
    "gateway": 128,
    "orchestrator": 112,
    "embedding": 80,
    "inference": 112,
    "vector-search": 192,
    "feature-store": 64,
}
"""Resident memory of a service that has just started, rounded up. What work takes comes on top: docs/operations.md."""

BAD_SETTING = 2


class BadStart(Exception):
    """The container was started without something that it needs; the message says what."""


def prepare(environment: MutableMapping[str, str], secrets: Path = SECRETS, certificates: Path = CERTIFICATES) -> str:
    """Complete the environment and return the name of the service; raise BadStart.

    PENSTOCK_SECRETS names variables, separated by commas, whose values are files in the folder of secrets.
    PENSTOCK_MTLS=on turns mTLS on with the mounted certificate. PENSTOCK_REFUSAL, unless empty, is why this container
    must not start. An empty variable of the service counts as not set, since a compose file cannot leave one out.
    """
    if refusal := environment.get("PENSTOCK_REFUSAL"):
        raise BadStart(refusal)
    service = environment["PENSTOCK_SERVICE"]
    prefix = service.replace("-", "_").upper() + "_"
    for name in filter(None, environment.get("PENSTOCK_SECRETS", "").split(",")):
        environment[name] = _secret(secrets / name)
    if environment.get("PENSTOCK_MTLS") == "on":
        environment.update({prefix + variable: str(certificates / name) for variable, name in TLS_FILES.items()})
    for name in [name for name, value in environment.items() if name.startswith(prefix) and not value]:
        del environment[name]
    return service


def check_memory(service: str, limits: Iterable[Path] = MEMORY_LIMITS) -> None:
    """Raise BadStart when the container may not use as much memory as the idle service takes."""
    least = LEAST_MIB[service]
    for file in limits:
        if not file.exists():
            continue
        limit = file.read_text("ascii").strip()
        if limit != "max" and int(limit) < least * 2**20:
            raise BadStart(f"the memory limit is {int(limit) // 2**20} MiB, and {service} needs {least} MiB to start")


def _secret(file: Path) -> str:
    try:
        value = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadStart(f"the secret {file.name} is missing: {error}") from error
    if not value:
        raise BadStart(f"the secret {file.name} is empty: {file}")
    return value


def main() -> None:
    """Become the service; what is wrong is said in one line and exits with 2."""
    try:
        service = prepare(os.environ)  # noqa: TID251  what it completes is the environment
        check_memory(service)
    except BadStart as error:
        sys.stderr.write(f"penstock: {error}\n")
        sys.exit(BAD_SETTING)
    arguments = sys.argv[1:] or ["-m", service.replace("-", "_") + ".main"]
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  no shell: the service takes this one's place


if __name__ == "__main__":
    main()
