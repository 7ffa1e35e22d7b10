"""Asks processes whether they are ready, the way their orchestrator would."""

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock_cli.stack.table import HOST, Process

ASK_TIMEOUT_S = 2.0


def is_ready(process: Process) -> bool:
    """Return whether the process says that it can do its work."""
    ready = process.ready
    if ready.grpc is not None:
        return _grpc_serving(process.ports[ready.grpc])
    return ready.http is not None and _http_ok(process.ports[ready.http], ready.path)


def _grpc_serving(port: int) -> bool:
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=ASK_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _http_ok(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}{path}", timeout=ASK_TIMEOUT_S, trust_env=False).is_success
    except httpx.HTTPError:
        return False
