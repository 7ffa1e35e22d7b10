"""A chat's answer in OpenAI's form: whole, or as the chunks of a stream."""

import re
import secrets
import time
from collections.abc import Iterable
from typing import Any, Final

import orjson
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference

from gateway.api.render import FINISH_REASONS, Json, extension_json, routing_json, served_json, usage_json
from gateway.core.ids import new_id

DONE: Final = b"data: [DONE]\n\n"
PADDED_TO: Final = 64
"""Chunks of a stream with obfuscation are a multiple of this long, so that their length does not tell the text's."""
LONGEST_HEADER: Final = 200
_unsafe: Final = re.compile(r"[^\x21-\x7e]")


def head(kind: str, model: str) -> Json:
    """Return what begins a whole answer, and every chunk of a stream alike."""
    return {"id": new_id("chatcmpl-"), "object": kind, "created": int(time.time()), "model": model}


def completion(model: str, response: pb.ChatResponse) -> Json:
    """Return a whole answer."""
    body = head("chat.completion", model)
    if response.served.system_fingerprint:
        body["system_fingerprint"] = response.served.system_fingerprint
    body["choices"] = [_choice(choice) for choice in response.choices]
    body["usage"] = usage_json(response.usage)
    body["penstock"] = extension(response)
    return body


def extension(response: pb.ChatResponse) -> Json:
    """Return what an answer says beyond OpenAI's form: what served it, how that came to be, what it stands on."""
    shown = extension_json(response.answer) if response.HasField("answer") else {"served": served_json(response.served)}
    if response.HasField("routing"):
        shown["routing"] = routing_json(response.routing)
    return shown


def served_headers(served: inference.ServedModel) -> list[tuple[bytes, bytes]]:
    """Return the headers that say which model answers."""
    told = {
        b"x-penstock-model": served.model,
        b"x-penstock-version": served.version,
        b"x-penstock-provider": served.provider,
        b"x-penstock-region": served.region,
    }
    return [(name, _unsafe.sub("_", value)[:LONGEST_HEADER].encode()) for name, value in told.items() if value]


def _choice(choice: inference.Choice) -> Json:
    said = choice.message
    message: Json = {
        "role": "assistant",
        "content": None if not said.content and (said.tool_calls or said.refusal) else said.content,
        "refusal": said.refusal or None,
    }
    if said.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in said.tool_calls
        ]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": orjson.Fragment(choice.logprobs_json) if choice.logprobs_json else None,
        "finish_reason": FINISH_REASONS[choice.finish_reason],
    }


class Chunks:
    """Writes a stream. What all chunks share is made once; the text of a piece is all that is encoded for it."""

    def __init__(self, model: str, *, usage: bool, obfuscated: bool = False) -> None:
        """Take the name that was asked for, whether a last chunk tells the usage, and whether lengths are hidden."""
        self._shared = head("chat.completion.chunk", model)
        self._usage = usage
        self._obfuscated = obfuscated
        self._started: set[int] = set()
        self._begin(inference.ServedModel())

    def _begin(self, served: inference.ServedModel) -> None:
        if served.system_fingerprint:
            self._shared["system_fingerprint"] = served.system_fingerprint
        self._before = b"data: " + orjson.dumps(self._shared)[:-1] + b',"choices":[{"index":'
        self._after = b'],"usage":null' if self._usage else b"]"

    def pieces(self, event: pb.StreamChatResponse | inference.GenerateResponse) -> bytes:
        """Return the chunks of the next pieces, in one; nothing when there is nothing to show."""
        if event.HasField("served"):
            self._begin(event.served)
        deltas = event.deltas
        if len(deltas) == 1:
            return self._piece(deltas[0])
        return b"".join(map(self._piece, deltas))

    def end(self, event: pb.StreamChatResponse) -> bytes:
        """Return the last chunks: how each choice ended, what the answer stands on, the usage, and the end itself."""
        finished = event.finished
        shown = b',"penstock":' + orjson.dumps(extension(finished))
        *others, last = event.deltas
        chunks = [self._ending(delta) for delta in others]
        chunks.append(self._ending(last, shown))
        if self._usage:
            told = {**self._shared, "choices": [], "usage": usage_json(finished.usage)}
            chunks.append(b"data: " + orjson.dumps(told) + b"\n\n")
        return b"".join([*chunks, DONE])

    def _piece(self, delta: inference.Delta) -> bytes:
        text, calls, refusal = delta.text, delta.tool_calls, delta.refusal
        if delta.choice in self._started and text and not (calls or refusal):
            return self._chunk(delta, b'{"content":' + orjson.dumps(text) + b"}")
        fields: Json = {}
        if delta.choice not in self._started and (text or calls or refusal):
            self._started.add(delta.choice)
            fields = {"role": "assistant", "content": text if text or not (calls or refusal) else None}
        if text:
            fields["content"] = text
        if refusal:
            fields["refusal"] = refusal
        if calls:
            fields["tool_calls"] = list(_call_pieces(calls))
        if not fields and not delta.logprobs_json:
            return b""
        return self._chunk(delta, orjson.dumps(fields))

    def _chunk(self, delta: inference.Delta, fields: bytes, reason: bytes = b"null", more: bytes = b"") -> bytes:
        logprobs = delta.logprobs_json.encode() if delta.logprobs_json else b"null"
        chunk = b'%b%d,"delta":%b,"logprobs":%b,"finish_reason":%b}%b%b' % (
            self._before, delta.choice, fields, logprobs, reason, self._after, more,
        )  # fmt: skip
        if not self._obfuscated:
            return chunk + b"}\n\n"
        padding = PADDED_TO - (len(chunk) + len(b',"obfuscation":""}\n\n')) % PADDED_TO
        return chunk + b',"obfuscation":"' + secrets.token_hex(padding).encode()[:padding] + b'"}\n\n'

    def _ending(self, delta: inference.Delta, more: bytes = b"") -> bytes:
        fields = b"{}" if delta.choice in self._started else b'{"role":"assistant","content":""}'
        return self._chunk(delta, fields, orjson.dumps(FINISH_REASONS[delta.finish_reason]), more)


def _call_pieces(calls: Iterable[Any]) -> Iterable[Json]:
    """Yield pieces of calls; the first piece of each has its id, its type and its name."""
    for call in calls:
        if call.id or call.name:
            function = {"name": call.name, "arguments": call.arguments}
            yield {"index": call.index, "id": call.id, "type": "function", "function": function}
        else:
            yield {"index": call.index, "function": {"arguments": call.arguments}}
