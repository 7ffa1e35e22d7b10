"""Tells who calls, for the choice of versions and for the journal of changes, and whom shadows are asked for."""

from typing import Final

from servicekit import identity
from servicekit.identity import Identity

from inference.core.traffic import Caller

SHADOW: Final = Identity("", "shadow", "", frozenset(), priority="batch")
"""Who asks shadows: nobody's tenant, and the least important of all."""


def current_caller() -> Caller:
    """Return tenant and key of the call being served."""
    caller = identity.current()
    return Caller(caller.tenant, caller.key_id)


def current_author() -> str:
    """Return tenant, principal and key of the call being served, for the journal."""
    caller = identity.current()
    return f"{caller.tenant}/{caller.principal}/{caller.key_id}"
