"""Right answers of the hostile upstream, and those that are right for a client and wrong for a user."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from exchange import EVENTS, Exchange

TEXT = "Hello from the hostile upstream, which is in a good mood today."
PAUSE_S = 0.02
PACED_WORDS = 200
MOST_PACED_WORDS = 3000
PROMPT_TOKENS, CACHED_TOKENS, REASONING_TOKENS = 12, 4, 1
FINGERPRINT = "fp_hostile"
Scenario = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Choice:
    """One answer: words of text, or tool calls, or a refusal; and why it ended."""

    words: list[str] = field(default_factory=list)
    finish_reason: str | None = "stop"
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    refusal: str | None = None


def words(text: str) -> list[str]:
    """Cut a text into its tokens: words with the blank before them."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def usage(choices: list[Choice]) -> dict[str, Any]:
    """Count the tokens of an answer."""
    written = sum(len(each.words) or 1 for each in choices)
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": written,
        "total_tokens": PROMPT_TOKENS + written,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
        "completion_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
    }


def frame(exchange: Exchange, kind: str, choices: list[Any], **fields: Any) -> dict[str, Any]:
    """Return what every object of one answer has."""
    shared = {"id": f"chatcmpl-{exchange.number}", "object": kind, "created": int(time.time())}
    return {**shared, "model": exchange.body["model"], "system_fingerprint": FINGERPRINT, "choices": choices, **fields}


def whole(exchange: Exchange, choices: list[Choice]) -> dict[str, Any]:
    """Return an answer that is not streamed."""
    return frame(
        exchange, "chat.completion", [_choice(exchange, *each) for each in enumerate(choices)], usage=usage(choices)
    )


def events(exchange: Exchange, choices: list[Choice]) -> list[dict[str, Any]]:
    """Return the events of an answer, without its end."""
    asked = bool((exchange.body.get("stream_options") or {}).get("include_usage"))
    extra: dict[str, Any] = {"usage": None} if asked else {}
    told: list[dict[str, Any]] = []

    for index, delta, finish_reason in _deltas(choices):
        logprobs = _logprobs(exchange, [delta["content"]]) if delta.get("content") else None
        piece = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        told.append(frame(exchange, "chat.completion.chunk", [piece], **extra))
    if asked:
        told.append(frame(exchange, "chat.completion.chunk", [], usage=usage(choices)))
    return told


def _deltas(choices: list[Choice]) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Yield the pieces of an answer: choice, delta, finish_reason."""
    for index, _ in enumerate(choices):
        yield index, {"role": "assistant", "content": ""}, None
    for index, choice in enumerate(choices):
        pieces: list[dict[str, Any]] = [{"content": word} for word in choice.words]
        pieces += [{"refusal": word} for word in words(choice.refusal)] if choice.refusal else []
        for piece in [*pieces, *_tool_deltas(choice)]:
            yield index, piece, None
        if choice.finish_reason:
            yield index, {}, choice.finish_reason


async def send(exchange: Exchange, choices: list[Choice], pause_s: float = 0.0) -> None:
    """Send an answer as it was asked for."""
    if not exchange.streaming:
        await asyncio.sleep(pause_s * sum(len(each.words) for each in choices))
        await exchange.json(200, whole(exchange, choices))
        return
    await exchange.head(200, EVENTS)
    for event in events(exchange, choices):
        await exchange.event(event)
        await asyncio.sleep(pause_s)
    await exchange.end()


def good(exchange: Exchange) -> list[Choice]:
    """Return n usual answers within max_tokens."""
    said = [str(turn.get("content")) for turn in exchange.body["messages"] if turn["role"] == "tool"]
    text = f"The tools said: {' '.join(said)}" if said else TEXT
    count = exchange.body.get("n") or 1
    return [_limited(exchange, words(text if index == 0 else f"{text} #{index}")) for index in range(count)]


def fitting(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """Return a small value that fits a JSON Schema of the usual kind."""
    root = schema if root is None else root
    if "$ref" in schema:
        return fitting(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return fitting(schema[union][0], root)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: fitting(value, root) for name, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [fitting(schema.get("items", {"type": "string"}), root)] * max(1, schema.get("minItems", 1))
    simple = {"string": "text", "integer": schema.get("minimum", 1), "number": 1.5, "boolean": True, "null": None}
    return simple[kind]


def _limited(exchange: Exchange, tokens: list[str]) -> Choice:
    most = exchange.body.get("max_tokens") or exchange.body.get("max_completion_tokens") or len(tokens)
    return Choice(tokens[:most], "length" if most < len(tokens) else "stop")


def _choice(exchange: Exchange, index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(choice.words) or None, "refusal": choice.refusal}
    if choice.tool_calls:
        message["tool_calls"] = choice.tool_calls
    logprobs = _logprobs(exchange, choice.words)
    return {"index": index, "message": message, "finish_reason": choice.finish_reason, "logprobs": logprobs}


def _logprobs(exchange: Exchange, tokens: list[str]) -> dict[str, Any] | None:
    if not exchange.body.get("logprobs"):
        return None
    top = [{"token": "x", "logprob": -2.5, "bytes": [120]}] * (exchange.body.get("top_logprobs") or 0)
    content = [{"token": each, "logprob": -0.5, "bytes": list(each.encode()), "top_logprobs": top} for each in tokens]
    return {"content": content, "refusal": None}


def _tool_deltas(choice: Choice) -> list[dict[str, Any]]:
    """Return the calls in pieces: the heads first, then the arguments by turns."""
    heads, tails = [], []
    for index, call in enumerate(choice.tool_calls):
        function = {"name": call["function"]["name"], "arguments": ""}
        heads.append({"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": function}]})
        text = call["function"]["arguments"]
        middle = len(text) // 2
        tails += [(part, index, half) for part, half in enumerate((text[:middle], text[middle:]))]
    pieces = [{"index": index, "function": {"arguments": text}} for _, index, text in sorted(tails)]
    return heads + [{"tool_calls": [piece]} for piece in pieces]


def _call(number: int, tool: dict[str, Any], arguments: str) -> dict[str, Any]:
    name = tool["function"]["name"]
    return {"id": f"call_{number}_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _said_before(exchange: Exchange, role: str) -> bool:
    return any(turn["role"] == role for turn in exchange.body["messages"])


def _schema(exchange: Exchange) -> dict[str, Any] | None:
    return ((exchange.body.get("response_format") or {}).get("json_schema") or {}).get("schema")


async def ok(exchange: Exchange) -> None:
    """Answer."""
    await send(exchange, good(exchange))


async def paced(exchange: Exchange) -> None:
    """Answer slowly."""
    asked = exchange.body.get("max_tokens") or exchange.body.get("max_completion_tokens") or PACED_WORDS
    count = min(asked, MOST_PACED_WORDS)
    await send(exchange, [Choice(words(" ".join(f"word{number}" for number in range(count))))], PAUSE_S)


async def tools(exchange: Exchange) -> None:
    """Call every tool, or answer when they have been called."""
    if _said_before(exchange, "tool"):
        return await ok(exchange)
    calls = [
        _call(exchange.number, tool, json.dumps(fitting(tool["function"].get("parameters") or {})))
        for tool in exchange.body.get("tools", [])
    ]
    return await send(exchange, [Choice([], "tool_calls", calls)])


async def bad_tools(exchange: Exchange) -> None:
    """Call a tool with arguments that are not JSON."""
    await send(
        exchange, [Choice([], "tool_calls", [_call(exchange.number, exchange.body["tools"][0], '{"city": "Par')])]
    )


async def structured(exchange: Exchange) -> None:
    """Answer with what the schema asks for."""
    schema = _schema(exchange)
    text = json.dumps({"ok": True} if schema is None else fitting(schema))
    await send(exchange, [_limited(exchange, words(text))] * (exchange.body.get("n") or 1))


async def bad_json(exchange: Exchange) -> None:
    """Answer with JSON that fits no schema."""
    await send(exchange, [Choice(words('{"unexpected": 1}'))])


async def bad_json_once(exchange: Exchange) -> None:
    """Answer wrongly until the conversation shows a wrong answer."""
    await (structured if _said_before(exchange, "assistant") else bad_json)(exchange)


async def echo(exchange: Exchange) -> None:
    """Answer with the request."""
    await send(exchange, [Choice([json.dumps(exchange.body)])])


async def length(exchange: Exchange) -> None:
    """Stop in the middle of JSON."""
    await send(exchange, [Choice(['{"name": "A'], "length")])


async def refusal(exchange: Exchange) -> None:
    """Refuse."""
    await send(exchange, [Choice(refusal="I cannot help with that.")])


async def filtered(exchange: Exchange) -> None:
    """Be stopped by the host."""
    await send(exchange, [Choice(words("There is a way to"), "content_filter")])


async def flaky(exchange: Exchange) -> None:
    """Fail every other time."""
    if exchange.number % 2:
        await exchange.error(500, "the engine is gone")
    else:
        await ok(exchange)


async def no_usage(exchange: Exchange) -> None:
    """Answer without counting."""
    if exchange.streaming:
        exchange.body["stream_options"] = None
        await ok(exchange)
    else:
        answer = whole(exchange, good(exchange))
        del answer["usage"]
        await exchange.json(200, answer)


ANSWERS: dict[str, Scenario] = {
    "ok": ok,
    "ok-paced": paced,
    "ok-tools": tools,
    "ok-json": structured,
    "ok-n": ok,
    "ok-echo": echo,
    "ok-length": length,
    "refusal": refusal,
    "filtered": filtered,
    "bad-json": bad_json,
    "bad-json-once": bad_json_once,
    "bad-tools": bad_tools,
    "no-usage": no_usage,
    "flaky": flaky,
}
