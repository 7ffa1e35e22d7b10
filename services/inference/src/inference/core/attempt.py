"""One request on one replica: counted when it begins, and by how it went when it ends."""

from types import TracebackType

from servicekit.errors import PenstockError

from inference.core.replica import Replica


class Attempt:
    """Holds inside a `with` what a request is to its replica; a class, for the sake of speed.

    An error of ours counts as the replica's failure. Anything else, such as a caller who leaves, says nothing of it.
    """

    __slots__ = ("_replica",)

    def __init__(self, replica: Replica) -> None:
        """Take who is asked."""
        self._replica = replica

    def __enter__(self) -> None:
        """Begin."""
        self._replica.enter()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End."""
        if error is None:
            self._replica.succeeded()
        elif isinstance(error, PenstockError):
            self._replica.failed(error)
        else:
            self._replica.left()
