"""Small Python models for a real Triton: one number in, the number plus an offset out, and memory that is only held."""

from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.ballast = np.ones(BALLAST_BYTES, np.int8)
        time.sleep(LOAD_S)

    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x + OFFSET)]))
        return answers
"""


def write_model(repository: Path, name: str, *, offset: int = 0, ballast_mib: int = 0, load_s: float = 0.0) -> None:
    """Put a model into a repository."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG, "utf-8")
    program = MODEL.replace("BALLAST_BYTES", str(ballast_mib << 20)).replace("LOAD_S", str(load_s))
    (folder / "model.py").write_text(program.replace("OFFSET", str(offset)), "utf-8")
