"""Says which ports are taken, by name, before anything starts."""

import socket
from collections.abc import Iterable

from penstock_cli.stack.table import HOST, Process, StackError


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(processes: Iterable[Process]) -> None:
    """Raise StackError naming every port that is taken and how to choose another."""
    taken = [
        f"{process.name}.{kind} ({port})"
        for process in processes
        for kind, port in process.ports.items()
        if not is_free(port)
    ]
    if taken:
        name = taken[0].split(" ")[0]
        raise StackError(
            f"ports already taken: {', '.join(taken)}. Stop what listens there, or choose others: "
            f"PENSTOCK_PORT_OFFSET=10000, or PENSTOCK_PORTS='{{\"{name}\": 18080}}'"
        )
