"""Tells the pool for whom the call at hand is, from the identity it came with."""

from typing import Final

from servicekit import identity
from servicekit.load.priority import Priority

PRIORITIES: Final = {priority.label: priority for priority in Priority}


def current_asker() -> tuple[str, Priority]:
    """Return the tenant and the priority of the call being served; raise Unauthenticated outside of one."""
    caller = identity.current()
    return caller.tenant, PRIORITIES.get(caller.priority, Priority.STANDARD)
