"""What a call does around the service it asks: it names what is not there, and takes no end for granted."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from servicekit.errors import NotFound, Unavailable

from gateway.core.targets import ModelNotFound


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Say `model_not_found` of what the caller named in `model`, whichever service did not find it."""
    try:
        yield
    except NotFound as error:
        raise ModelNotFound(model) from error


def closing(events: AsyncIterator[Any]) -> Any:
    """Close the iteration when it is left, so that the call behind it is cancelled then and not at collection."""
    return aclosing(cast("AsyncGenerator[Any, None]", events))


def check_whole(complete: bool) -> None:
    """Raise Unavailable when a stream ended before its last message: what came so far is not the answer."""
    if not complete:
        raise Unavailable("the answer broke off", reason="backend_failed", retry_after_s=1)
