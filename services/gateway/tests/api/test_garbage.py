"""What calls leave behind is freed at once: the collector looks rarely, and each look stops every call."""

import gc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from gateway_chat_fakes import TOOL_CALLS, Written
from gateway_fakes import Gateway
from servicekit.errors import Unavailable

TEXT = "".join(f"{number} " for number in range(30))
OURS = ("gateway.", "servicekit.")
CODES: tuple[Callable[[Any], Any], ...] = (
    lambda kept: kept.f_code,
    lambda kept: kept.cr_code,
    lambda kept: kept.ag_code,
    lambda kept: kept.gi_code,
)


def ours(kept: Any) -> str:
    """Return the name of what is of our making or runs our code, or nothing."""
    for code in CODES:
        try:
            place: str = code(kept).co_filename
        except AttributeError:
            continue
        return place if "/gateway/src/" in place or "/servicekit/src/" in place else ""
    kind = type(kept)
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__module__.startswith(OURS) else ""


CASES: dict[str, tuple[Written, dict[str, Any], int]] = {
    "chat": (Written(TEXT), {}, 200),
    "stream": (Written(TEXT), {"stream": True}, 200),
    "tools": (Written("One.", calls=[("c1", "find", TEXT)], finish_reason=TOOL_CALLS), {"stream": True}, 200),
    "broken": (Written(TEXT, breaks=Unavailable("gone", reason="backend_failed")), {"stream": True}, 200),
    "refused": (Written(TEXT), {"temperature": 9}, 400),
    "unknown": (Written(TEXT), {"model": "nobody"}, 404),
}


@pytest.mark.parametrize(("written", "more", "status"), CASES.values(), ids=CASES.keys())
async def test_a_call_and_its_connection_leave_no_garbage(
    http: httpx.AsyncClient, gateway: Gateway, written: Written, more: dict[str, Any], status: int
) -> None:
    gateway.world.answers = [written]
    asked = {"model": "writer", "messages": [{"role": "user", "content": "Hi"}], **more}

    async def ask() -> None:
        answer = await http.post("/v1/chat/completions", json=asked, headers={"Connection": "close"})
        assert answer.status_code == status

    await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await ask()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [name for name in map(ours, gc.garbage) if name]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
