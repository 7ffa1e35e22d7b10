"""Scripted engines: doubles of a GPU's, inside a real Triton with the tensors of real backends, or behind real HTTP.

What one writes is told by the prompt, a Script as JSON. It counts the tokens it made and the requests it runs, as the
engines do that it stands for, so that a test can see whether a request that was left has really stopped.
"""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

PROMPT_TOKENS = 11
VLLM_INPUTS = """
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "image" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_finish_reason" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_cumulative_logprob" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_logprobs" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_num_input_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "return_num_output_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
"""
VLLM_OUTPUTS = """
  { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "finish_reason" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "cumulative_logprob" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "logprobs" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] },
  { name: "num_output_tokens" data_type: TYPE_UINT32 dims: [ -1 ] }
"""
BLS_INPUTS = """
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "bad_words" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "stop_words" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "top_k" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "top_p" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "length_penalty" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "presence_penalty" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "frequency_penalty" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "return_perf_metrics" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
"""
BLS_OUTPUTS = """
  { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "cum_log_probs" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "output_log_probs" data_type: TYPE_FP32 dims: [ -1, -1 ] }
"""
CONFIG = """
backend: "python"
max_batch_size: {batch}
model_transaction_policy {{ decoupled: true }}
input [{inputs}]
output [{outputs}]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters {{ key: "speaks" value {{ string_value: "{speaks}" }} }}
parameters {{ key: "accumulate_tokens" value {{ string_value: "{accumulate}" }} }}
"""
ENGINE = '''
import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Each request is written by a thread of its own, as an engine does that batches in flight."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.bls = parameters["speaks"] == "tensorrt_llm"
        self.accumulate = parameters["accumulate_tokens"] == "true"
        labels = {"model": args["model_name"]}
        kinds = pb_utils.MetricFamily
        self.families = [
            kinds(name="scripted_generation_tokens", description="Tokens made", kind=kinds.COUNTER),
            kinds(name="scripted_running_requests", description="Requests under way", kind=kinds.GAUGE),
        ]
        self.tokens, self.running = [family.Metric(labels=labels) for family in self.families]
        self.lock = threading.Lock()

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            read = {
                tensor.name(): tensor.as_numpy().reshape(-1)
                for tensor in request.inputs()
            }
            self.count(self.running, 1)
            threading.Thread(target=self.write, args=(read, sender), daemon=True).start()

    def count(self, metric, by):
        with self.lock:
            metric.increment(by)

    def write(self, read, sender):
        try:
            self.answer(read, sender)
        except Exception as error:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("engine: " + repr(error))), flags=FINAL)
        finally:
            self.count(self.running, -1)

    def answer(self, read, sender):
        text = bytes(read["text_input"][0]).decode()
        try:
            script = json.loads(text)
        except ValueError:
            refusal = pb_utils.TritonError("no script", pb_utils.TritonError.INVALID_ARG)
            sender.send(pb_utils.InferenceResponse(error=refusal), flags=FINAL)
            return
        pieces = script["pieces"] if not script["endless"] else iter(lambda: "more ", None)
        whole = b""
        for piece in pieces:
            if sender.is_cancelled():
                sender.send(flags=FINAL)
                return
            self.count(self.tokens, 1)
            raw = piece.encode("utf-8", "surrogateescape")
            whole += raw
            shown = (whole if self.accumulate else raw).decode("utf-8", "replace").encode()
            sender.send(pb_utils.InferenceResponse(self.outputs(shown, "None", 1, read, script)))
            time.sleep(script["pause_s"])
        if script["end"] == "error":
            raise RuntimeError("the engine died, /secret/path line 7")
        if script["end"] != "silent" and not self.bls:
            sender.send(pb_utils.InferenceResponse(self.outputs(b"", script["end"], 0, read, script)))
        sender.send(flags=FINAL)

    def outputs(self, text, reason, tokens, read, script):
        tensors = [pb_utils.Tensor("text_output", np.array([text], np.object_))]
        if self.bls:
            return tensors
        values = {"finish_reason": np.array([reason.encode()], np.object_)}
        if script["usage"]:
            values["num_input_tokens"] = np.array([11], np.uint32)
            values["num_output_tokens"] = np.array([tokens], np.uint32)
        asked = {name for name in values if read.get("return_" + name, [False])[0]}
        return tensors + [pb_utils.Tensor(name, values[name]) for name in asked]
'''


@dataclass(frozen=True, slots=True)
class Script:
    """What an engine is to write: pieces, a token each, and how it ends: stop, length, error, or silent."""

    pieces: tuple[str, ...] = ()
    end: str = "stop"
    usage: bool = True
    endless: bool = False
    pause_s: float = 0.0

    def prompt(self) -> str:
        """Return it as what an engine is sent."""
        return json.dumps(asdict(self))


def write_engines(repository: Path) -> tuple[str, ...]:
    """Put an engine for each set of tensors into a repository; return their names."""
    kinds = {
        "vllm": CONFIG.format(batch=0, inputs=VLLM_INPUTS, outputs=VLLM_OUTPUTS, speaks="vllm", accumulate="false"),
        "bls": CONFIG.format(
            batch=4, inputs=BLS_INPUTS, outputs=BLS_OUTPUTS, speaks="tensorrt_llm", accumulate="false"
        ),
        "bls-all": CONFIG.format(
            batch=4, inputs=BLS_INPUTS, outputs=BLS_OUTPUTS, speaks="tensorrt_llm", accumulate="true"
        ),
    }
    for name, config in kinds.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config, "utf-8")
        (repository / name / "1/model.py").write_text(ENGINE, "utf-8")
    return tuple(kinds)


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine says of itself: tokens made since its start, and requests under way."""

    tokens: int
    running: int


async def triton_counters(metrics_url: str, model: str) -> Counters:
    """Return the counters of an engine from Triton's metrics."""
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(metrics_url, timeout=5).read().decode())
    found = dict.fromkeys(("scripted_generation_tokens", "scripted_running_requests"), 0.0)
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name in found and f'model="{model}"' in rest:
            found[name] = float(rest.rsplit(" ", 1)[1])
    return Counters(*map(int, found.values()))


class HttpEngine:
    """An upstream with the OpenAI API that writes what the last message's script says."""

    def __init__(self) -> None:
        self.url = ""
        self.tokens = 0
        self.running = 0

    async def counters(self) -> Counters:
        """Return what it made and runs."""
        return Counters(self.tokens, self.running)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one chat."""
        asked = orjson.loads(await request.read())
        try:
            script = Script(**orjson.loads(asked["messages"][-1]["content"]))
        except (ValueError, TypeError):
            return web.json_response({"error": {"message": "no script", "type": "invalid_request_error"}}, status=400)
        self.running += 1
        try:
            if asked.get("stream"):
                return await self._stream(request, script)
            return await self._whole(script)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, script: Script) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        made = 0
        while script.endless or made < len(script.pieces):
            self.tokens += 1
            await response.write(_event(content="more " if script.endless else script.pieces[made]))
            made += 1
            await asyncio.sleep(script.pause_s)
        if script.end in ("error", "silent"):
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(_event(script.end))
        if script.usage:
            usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": made}
            await response.write(b"data: " + orjson.dumps({"model": "m", "choices": [], "usage": usage}) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _whole(self, script: Script) -> web.StreamResponse:
        while script.endless:
            self.tokens += 1
            await asyncio.sleep(script.pause_s)
        self.tokens += len(script.pieces)
        if script.end in ("error", "silent"):
            return web.json_response({"error": {"message": "the engine died, /secret/path"}}, status=500)
        message = {"role": "assistant", "content": "".join(script.pieces)}
        body: dict[str, Any] = {
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": script.end}],
        }
        if script.usage:
            body["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(script.pieces)}
        return web.json_response(body)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["HttpEngine"]:
        """Serve on a free port of the loopback interface."""
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()


def _event(reason: str | None = None, **delta: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + orjson.dumps({"model": "m", "choices": [choice]}) + b"\n\n"
