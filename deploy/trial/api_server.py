"""Stands in for Kubernetes' API server in the one thing that the platform asks it: the EndpointSlices of a Service."""

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SERVICE = "kubernetes.io/service-name="
WATCH_S = 30.0


@dataclass(slots=True)
class Endpoints:
    """The ready pods of each Service, by address; who watches is told of every change."""

    token: str
    ready: dict[str, set[str]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, service: str, addresses: set[str]) -> None:
        """Say which pods of a Service are ready."""
        with self.changed:
            self.ready[service] = addresses
            self.changed.notify_all()

    def slice(self, service: str) -> dict[str, Any]:
        """Return the one slice of a Service."""
        found = sorted(self.ready.get(service, ()))
        endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in found]
        return {"metadata": {"name": f"{service}-1"}, "endpoints": endpoints}

    def events(self, service: str) -> Iterator[dict[str, Any]]:
        """Yield the slice as it is, since it may have changed after it was listed, and at each change, for a while."""
        with self.changed:
            yield {"type": "MODIFIED", "object": self.slice(service)}
            while self.changed.wait(WATCH_S):
                yield {"type": "MODIFIED", "object": self.slice(service)}


class _Answering(BaseHTTPRequestHandler):
    """Answers a list, or a watch line by line."""

    endpoints: Endpoints
    path_of_slices: str

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        service = query.get("labelSelector", "").removeprefix(SERVICE)
        if self.headers.get("Authorization") != f"Bearer {self.endpoints.token}" or asked.path != self.path_of_slices:
            self._answer(403, b"{}")
        elif "watch" in query:
            self._watch(service)
        else:
            listed = {"metadata": {"resourceVersion": "1"}, "items": [self.endpoints.slice(service)]}
            self._answer(200, json.dumps(listed).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, service: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for event in self.endpoints.events(service):
                self.wfile.write(json.dumps(event).encode() + b"\n")
                self.wfile.flush()
        except OSError:
            return  # who watched is gone

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def api_server(endpoints: Endpoints, host: str, namespace: str, certificate: Mapping[str, Path]) -> Iterator[int]:
    """Serve the endpoints over HTTPS on a free port of the host, and give that port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate["tls.crt"], certificate["tls.key"])
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    answering = type("Answering", (_Answering,), {"endpoints": endpoints, "path_of_slices": path})
    with ThreadingHTTPServer((host, 0), answering) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
