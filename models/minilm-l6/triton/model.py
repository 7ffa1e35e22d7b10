"""Serves a sentence encoder with ONNX Runtime inside Triton's Python backend."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from batching import BadInput, Texts, plan_runs
from onnx_session import open_session, step_back


class TritonPythonModel:
    """`input_ids`, `attention_mask` INT64 [N, L] -> `embedding` FP32 [N, 384], for all requests of a batch at once."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph beside this file; threads and sizes come from config.pbtxt."""
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        self._session = open_session(args, parameters)
        self._vocabulary = int(parameters["vocabulary"])
        self._positions = int(parameters["positions"])
        self._tokens_per_run = int(parameters["tokens_per_run"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; a wrong one gets its own error and does not hurt the others."""
        accepted: list[Texts] = []
        answers: list[Any] = []
        for request in requests:
            try:
                accepted.append(self._read(request))
                answers.append(None)
            except BadInput as error:
                answers.append(
                    pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
                )
        vectors = iter(self._encode(accepted))
        return [answer or _respond(next(vectors)) for answer in answers]

    def finalize(self) -> None:
        """Give the memory back without being in anybody's way."""
        step_back()

    def _read(self, request: Any) -> Texts:
        ids, mask = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("input_ids", "attention_mask")
        )
        return Texts.check(ids, mask, self._vocabulary, self._positions)

    def _encode(self, accepted: list[Texts]) -> list[np.ndarray]:
        vectors = [np.empty((len(texts.ids), 384), np.float32) for texts in accepted]
        for run in plan_runs(accepted, self._tokens_per_run):
            feed = {"input_ids": run.ids, "attention_mask": run.mask}
            (encoded,) = self._session.run(["embedding"], feed)
            for (request, row), vector in zip(run.origin, encoded, strict=True):
                vectors[request][row] = vector
        return vectors


def _respond(vectors: np.ndarray) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors)])
