"""Serves the graph that scores passages for a query, with ONNX Runtime inside Triton's Python backend."""

import json
from typing import Any

import triton_python_backend_utils as pb_utils
from onnx_session import open_session, step_back
from scorer import BadPairs, Floats, Scorer, Tokens, check


class TritonPythonModel:
    """`input_ids`, `attention_mask` INT64 [1 + P, L] -> `scores` FP32 [P]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph beside this file; threads and sizes come from config.pbtxt."""
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        # Passages have many lengths: an arena would keep the largest buffer ever needed.
        self._session = open_session(args, parameters, arena=False)
        self._vocabulary = int(parameters["vocabulary"])
        self._positions = int(parameters["positions"])
        most_bytes = int(parameters["kept_mib"]) << 20
        self._scorer = Scorer(self._encode, int(parameters["rows_per_run"]), most_bytes)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; a wrong one gets its own error."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Give the memory back without being in anybody's way."""
        step_back()

    def _answer(self, request: Any) -> Any:
        ids, mask = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("input_ids", "attention_mask")
        )
        try:
            check(ids, mask, self._vocabulary, self._positions)
        except BadPairs as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor("scores", self._scorer.scores(ids, mask))])

    def _encode(self, ids: Tokens, mask: Tokens) -> tuple[Floats, Floats]:
        directions, counted = self._session.run(["directions", "counted"], {"input_ids": ids, "attention_mask": mask})
        return directions, counted
