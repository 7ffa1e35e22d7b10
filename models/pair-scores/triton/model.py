"""Serves the graph that scores passages for a query, with ONNX Runtime inside Triton's Python backend."""

import json
from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from scorer import BadPairs, Floats, Scorer, Tokens, check


class TritonPythonModel:
    """`input_ids`, `attention_mask` INT64 [1 + P, L] -> `scores` FP32 [P]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph beside this file; threads and sizes come from config.pbtxt."""
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_threads"])
        # A spinning thread pool steals the processor from the services beside it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Passages have many lengths: an arena would keep the largest buffer ever needed.
        options.enable_cpu_mem_arena = False
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._vocabulary = int(parameters["vocabulary"])
        self._positions = int(parameters["positions"])
        most_bytes = int(parameters["kept_mib"]) << 20
        self._scorer = Scorer(self._encode, int(parameters["rows_per_run"]), most_bytes)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; a wrong one gets its own error."""
        return [self._answer(request) for request in requests]

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
