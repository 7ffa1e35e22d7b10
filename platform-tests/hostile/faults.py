"""What a hostile upstream does instead of answering."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from answers import Choice, Scenario, events, good, ok, whole
from exchange import EVENTS, JSON, Exchange

SLOW_S = 3.0
HUGE_BYTES = 64 * 1024 * 1024
PIECE = 64 * 1024
GARBAGE = random.Random(7).randbytes(4096)
ERROR = {"error": {"message": "the engine fell over", "type": "server_error", "param": None, "code": None}}


def status(number: int, message: str = "the engine is gone", **fields: str) -> Scenario:
    """Return a scenario that answers with a status."""

    async def scenario(exchange: Exchange) -> None:
        await exchange.error(number, message, **fields)

    return scenario


async def unauthorized(exchange: Exchange) -> None:
    """Refuse the key and repeat it."""
    await exchange.error(401, f"wrong key: {exchange.headers.get('authorization')}", code="invalid_api_key")


async def later(exchange: Exchange) -> None:
    """Name a date to come back at."""
    moment = datetime.now(UTC) + timedelta(seconds=30)
    await exchange.error(429, "slow down", Retry_After=format_datetime(moment, usegmt=True))


async def silent(exchange: Exchange) -> None:
    """Say nothing."""
    await exchange.for_ever()


async def slow_first_byte(exchange: Exchange) -> None:
    """Answer late."""
    await asyncio.sleep(SLOW_S)
    await ok(exchange)


async def half(exchange: Exchange) -> None:
    """Send half of an answer."""
    if exchange.streaming:
        await exchange.head(200, EVENTS)
        told = events(exchange, good(exchange))
        for event in told[: len(told) // 2]:
            await exchange.event(event)
        return
    text = json.dumps(whole(exchange, good(exchange))).encode()
    await exchange.head(200, JSON, len(text))
    await exchange.raw(text[: len(text) // 2])


async def stall(exchange: Exchange) -> None:
    """Stop in the middle."""
    await half(exchange)
    await exchange.for_ever()


async def cut(exchange: Exchange) -> None:
    """Break off in the middle; the pause lets the half arrive, which a reset would take back."""
    await half(exchange)
    await asyncio.sleep(0.05)
    exchange.reset()


async def garbage(exchange: Exchange) -> None:
    """Send bytes that mean nothing under a type that says they do."""
    await body(exchange, GARBAGE)


async def not_http(exchange: Exchange) -> None:
    """Send bytes that mean nothing at all."""
    await exchange.raw(GARBAGE)
    exchange.reset()


async def wrong_type(exchange: Exchange) -> None:
    """Send a page for people."""
    page = b"<!doctype html><title>Sign in</title>"
    await exchange.head(200, "text/html", len(page))
    await exchange.raw(page)


async def truncated_json(exchange: Exchange) -> None:
    """Break the JSON and nothing else."""
    if exchange.streaming:
        told = [json.dumps(event) for event in events(exchange, good(exchange))]
        told[4] = told[4][: len(told[4]) // 2]
        await body(exchange, "".join(f"data: {each}\n\n" for each in [*told, "[DONE]"]).encode())
    else:
        text = json.dumps(whole(exchange, good(exchange))).encode()
        await body(exchange, text[: len(text) // 2])


async def empty_choices(exchange: Exchange) -> None:
    """Answer with nothing."""
    await tell(exchange, [])


async def no_finish(exchange: Exchange) -> None:
    """Never say why it ended."""
    await tell(exchange, [Choice(good(exchange)[0].words, None)])


async def one_of_n(exchange: Exchange) -> None:
    """Answer once."""
    await tell(exchange, good(exchange)[:1])


async def error_200(exchange: Exchange) -> None:
    """Call an error a success."""
    await exchange.json(200, ERROR)


async def error_event(exchange: Exchange) -> None:
    """Tell an error after half of an answer."""
    if not exchange.streaming:
        return await exchange.json(200, whole(exchange, good(exchange)) | ERROR)
    await half(exchange)
    await exchange.event(ERROR)
    return await exchange.end()


async def endless(exchange: Exchange) -> None:
    """Write for ever, as fast as it is read."""
    if exchange.streaming:
        event = events(exchange, good(exchange))[1]
        await exchange.head(200, EVENTS)
        while True:
            await exchange.event(event)
            await asyncio.sleep(0)
    start = json.dumps(whole(exchange, good(exchange))).encode()[:-1] + b', "more": "'
    await exchange.head(200, JSON)
    await exchange.chunk(start)
    while True:
        await exchange.chunk(b"x" * PIECE)


async def huge_line(exchange: Exchange) -> None:
    """Send more in one line than anyone can want."""
    await exchange.head(200, EVENTS if exchange.streaming else JSON)
    if exchange.streaming:
        await exchange.chunk(b"data: ")
    await exchange.chunk(b'{"choices": [{"index": 0, "delta": {"content": "')
    for _ in range(HUGE_BYTES // PIECE):
        await exchange.chunk(b"x" * PIECE)
    await exchange.chunk(b'"}}]}\n\n')
    await exchange.raw(b"0\r\n\r\n")


async def tell(exchange: Exchange, choices: list[Choice]) -> None:
    """Send choices in proper form, whatever they are."""
    if not exchange.streaming:
        return await exchange.json(200, whole(exchange, choices))
    await exchange.head(200, EVENTS)
    told: list[Any] = events(exchange, choices)
    for event in told:
        await exchange.event(event)
    return await exchange.end()


async def body(exchange: Exchange, sent: bytes) -> None:
    """Send a whole body under the type that was asked for."""
    await exchange.head(200, EVENTS if exchange.streaming else JSON, len(sent))
    await exchange.raw(sent)


FAULTS: dict[str, Scenario] = {
    "500": status(500),
    "503": status(503),
    "401": unauthorized,
    "404": status(404, "no such model", code="model_not_found"),
    "400": status(400, "temperature is too high for this model", param="temperature"),
    "context-length": status(400, "This model's maximum context length is 8 tokens.", code="context_length_exceeded"),
    "429": status(429, "slow down"),
    "429-retry-after": status(429, "slow down", Retry_After="7"),
    "429-date": later,
    "429-long": status(429, "slow down", Retry_After="86400"),
    "redirect": status(302, "elsewhere", Location="/redirected"),
    "silent": silent,
    "slow-first-byte": slow_first_byte,
    "stall": stall,
    "cut": cut,
    "garbage": garbage,
    "not-http": not_http,
    "wrong-type": wrong_type,
    "truncated-json": truncated_json,
    "empty-choices": empty_choices,
    "no-finish": no_finish,
    "one-of-n": one_of_n,
    "error-200": error_200,
    "error-event": error_event,
    "endless": endless,
    "huge-line": huge_line,
}
