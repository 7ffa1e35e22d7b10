"""The socket under the REST door."""

import time

import httpx
from gateway_fakes import Gateway


async def test_no_answer_waits_for_the_callers_acknowledgement(http: httpx.AsyncClient, gateway: Gateway) -> None:
    """Header and body are two writes: without TCP_NODELAY the second waits for the delayed ACK, 40 ms, every time."""
    took_s = []
    for _ in range(10):
        start = time.perf_counter()
        assert (await http.get("/v2")).status_code == 200
        took_s.append(time.perf_counter() - start)
    assert min(took_s) < 0.03, took_s
