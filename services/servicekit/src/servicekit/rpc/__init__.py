"""gRPC, both sides: `serve` a service, and reach another through a `Channel`."""

from servicekit.rpc.client import Channel
from servicekit.rpc.framing import CallFailed, CallLost
from servicekit.rpc.interceptor import Authenticate
from servicekit.rpc.link import Link, Metadata
from servicekit.rpc.passage import Passage
from servicekit.rpc.server import AddressTaken, Readiness, Service, serve
from servicekit.rpc.wire import PeerFailed
from servicekit.tls import TlsFiles

__all__ = [
    "AddressTaken",
    "Authenticate",
    "CallFailed",
    "CallLost",
    "Channel",
    "Link",
    "Metadata",
    "Passage",
    "PeerFailed",
    "Readiness",
    "Service",
    "TlsFiles",
    "serve",
]
