"""Serves the extractive reader in Triton's Python backend with the tensors of the vLLM backend."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from encoder import SentenceEncoder
from generation import BadRequest, Options, Output, join, limit_tokens
from prompt import MalformedPrompt
from reader import PromptTooLong, Reader, Weights
from tokenizers import Tokenizer
from words import Rarity

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
CALLERS_FAULT = (BadRequest, MalformedPrompt, PromptTooLong, UnicodeDecodeError)


class EncoderFailed(RuntimeError):
    """The encoder model did not answer."""


class TritonPythonModel:
    """`text_input` and options -> a stream of `text_output`, `finish_reason` and token counts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read tokenizer.json and weights.json beside this file; the encoder is another model of this server."""
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        here = Path(args["model_repository"]) / args["model_version"]
        self._encoder = parameters["encoder"]
        self._tokenizer = Tokenizer.from_file(str(here / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._reader = Reader(
            SentenceEncoder(
                Tokenizer.from_file(str(here / "tokenizer.json")), self._run, int(parameters["cache_entries"])
            ),
            Rarity.from_tokenizer(here / "tokenizer.json"),
            Weights.load(here / "weights.json"),
        )

    def execute(self, requests: list[Any]) -> None:
        """Answer each request in turn; a wrong one gets its own error."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answer(request, sender)
            except CALLERS_FAULT as error:
                _fail(sender, str(error), pb_utils.TritonError.INVALID_ARG)
            except EncoderFailed as error:
                _fail(sender, str(error), pb_utils.TritonError.UNAVAILABLE)

    def _answer(self, request: Any, sender: Any) -> None:
        text = _text(request, "text_input") or ""
        options = Options.of(
            bool(_value(request, "stream")),
            _flag(request, "exclude_input_in_output"),
            _text(request, "sampling_parameters"),
        )
        if sender.is_cancelled():
            sender.send(flags=FINAL)
            return
        parts = self._reader.answer(text)
        outputs = limit_tokens(parts, self._tokenizer, options.max_tokens)
        if not options.stream:
            outputs = iter([join(list(outputs), text if options.prepend_input else "")])
        self._send(request, sender, text, outputs)

    def _send(self, request: Any, sender: Any, text: str, outputs: Iterator[Output]) -> None:
        asked = {
            name
            for name in ("finish_reason", "num_input_tokens", "num_output_tokens")
            if _value(request, f"return_{name}")
        }
        taken = len(self._tokenizer.encode(text)) if "num_input_tokens" in asked else 0
        for output in outputs:
            if sender.is_cancelled():
                sender.send(flags=FINAL)
                return
            values = {
                "finish_reason": np.array([str(output.finish_reason).encode()], np.object_),
                "num_input_tokens": np.array([taken], np.uint32),
                "num_output_tokens": np.array([output.tokens], np.uint32),
            }
            tensors = [pb_utils.Tensor("text_output", np.array([output.text.encode()], np.object_))]
            tensors += [pb_utils.Tensor(name, values[name]) for name in values if name in asked]
            sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if output.finish_reason else 0)

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        request = pb_utils.InferenceRequest(
            model_name=self._encoder,
            requested_output_names=["embedding"],
            inputs=[pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)],
        )
        response = request.exec()
        if response.has_error():
            raise EncoderFailed(f"the encoder {self._encoder} failed: {response.error().message()}")
        return pb_utils.get_output_tensor_by_name(response, "embedding").as_numpy()


def _value(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _flag(request: Any, name: str) -> bool | None:
    value = _value(request, name)
    return None if value is None else bool(value)


def _text(request: Any, name: str) -> str | None:
    value = _value(request, name)
    return None if value is None else bytes(value).decode("utf-8")


def _fail(sender: Any, message: str, code: int) -> None:
    tensor = pb_utils.Tensor("text_output", np.array([b"N/A"], np.object_))
    sender.send(pb_utils.InferenceResponse([tensor], pb_utils.TritonError(message, code)), flags=FINAL)
