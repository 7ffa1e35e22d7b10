"""Serves the word pieces of a query and its passages in Triton's Python backend."""

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from pieces import BadTexts, Pieces
from tokenizers import Tokenizer


class TritonPythonModel:
    """`query`, `passages` BYTES -> `input_ids`, `attention_mask` INT64 [1 + P, L]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read tokenizer.json beside this file; the bounds come from config.pbtxt."""
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        tokenizer = Tokenizer.from_file(str(Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"))
        self._pieces = Pieces(tokenizer, int(parameters["max_tokens"]), int(parameters["max_passages"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; a wrong one gets its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        query, passages = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1) for name in ("query", "passages")
        )
        try:
            ids, mask = self._pieces.rows(query[0], list(passages))
        except BadTexts as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)])
