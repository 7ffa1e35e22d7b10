"""The command line of the model repository: build, serve, calibrate, measure."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model_repository.card import CardError
from model_repository.triton_server import Endpoints, Launch, LaunchError, TritonEnvironment, start_triton

MODELS = Path(__file__).resolve().parents[2]
"""The folder `models/` of this checkout."""


def build(arguments: argparse.Namespace) -> None:
    """Build the repository and say what was made."""
    # onnx is heavy, and serve, which has to be back quickly after a crash, does without it.
    from model_repository.repository import build_repository  # noqa: PLC0415

    output = arguments.output.resolve()
    started = time.perf_counter()
    for model in build_repository(arguments.models.resolve(), arguments.target, output):
        made = "built" if model.fresh else "up to date"
        _say(f"{model.name:24} {model.size / 1e6:7.1f} MB  {model.digest[:12]}  {made}")
    _say(f"{output} ({arguments.target}) in {time.perf_counter() - started:.1f} s")


def serve(arguments: argparse.Namespace) -> None:
    """Become the Triton server."""
    repository = arguments.repository.resolve()
    manifests = [json.loads(path.read_text("utf-8")) for path in sorted(repository.glob("*/manifest.json"))]
    if not any(repository.glob("*/config.pbtxt")):
        raise LaunchError(f"no model in {repository}")
    served = [manifest["name"] for manifest in manifests if manifest["served"]]
    launch = Launch(
        environment=TritonEnvironment(arguments.triton_env.absolute()),
        repository=repository,
        models=arguments.load or served,
        endpoints=Endpoints(arguments.address, arguments.grpc_port, arguments.http_port, arguments.metrics_port),
        trace_endpoint=arguments.otlp_endpoint,
    )
    start_triton(launch)


def measure(arguments: argparse.Namespace) -> None:
    """Print what each variant of the encoders costs and how good it is."""
    # onnxruntime is heavy too.
    from model_repository.measure import measure_variants  # noqa: PLC0415

    for line in measure_variants(arguments.repository.resolve(), arguments.questions):
        _say(line)


def calibrate_encoder(arguments: argparse.Namespace) -> None:
    """Find the activation ranges of an encoder's int8 graph with its fp32 graph, and write them beside its card."""
    # onnx and onnxruntime are heavy too.
    from model_repository.activations import calibrate, write_spans  # noqa: PLC0415
    from model_repository.measure import MeasuredEncoder, calibration_texts  # noqa: PLC0415

    exact = MeasuredEncoder.open(arguments.repository / arguments.exact / "manifest.json")
    texts = calibration_texts(arguments.questions)
    spans = calibrate(exact.graph, exact.tokenizer, texts)
    origin = f"calibrate: {len(texts)} texts of {arguments.questions.name}, every other article, through {exact.name}"
    write_spans(arguments.output, spans, origin)
    _say(f"{arguments.output}: {len(spans)} activations from {len(texts)} texts")


def find_golden(arguments: argparse.Namespace) -> None:
    """Write the golden cases of an encoder: token ids, and the vectors that its exact graph gives them."""
    # onnxruntime is heavy too.
    from model_repository.golden import encoder_cases  # noqa: PLC0415
    from model_repository.measure import MeasuredEncoder  # noqa: PLC0415

    exact = MeasuredEncoder.open(arguments.repository / arguments.exact / "manifest.json")
    arguments.output.write_text(encoder_cases(exact.run, exact.tokenizer), "utf-8")
    _say(f"{arguments.output}: by {exact.name}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line, with the function to run in `run`."""
    parser = argparse.ArgumentParser(prog="model_repository", description=__doc__)
    commands = parser.add_subparsers(required=True)
    builder = commands.add_parser("build", help="build the Triton model repository for a target")
    builder.add_argument("--target", choices=["cpu", "gpu"], required=True)
    builder.add_argument("--output", type=Path, required=True)
    builder.add_argument("--models", type=Path, default=MODELS, help="folder with one folder per model")
    builder.set_defaults(run=build)
    server = commands.add_parser("serve", help="start the bundled Triton server on this machine (exec)")
    server.add_argument(
        "--target", choices=["cpu"], default="cpu", help="a gpu repository is served by the official image"
    )
    server.add_argument("--repository", type=Path, required=True)
    server.add_argument("--triton-env", type=Path, required=True, help="environment made from requirements/triton.lock")
    server.add_argument(
        "--load", nargs="+", metavar="MODEL", help="models to load at the start (default: the served ones)"
    )
    server.add_argument("--address", default="127.0.0.1")
    for protocol, port in (("grpc", 8091), ("http", 8090), ("metrics", 8092)):
        server.add_argument(f"--{protocol}-port", type=int, default=port)
    server.add_argument(
        "--otlp-endpoint", help="OTLP/HTTP URL for the server's spans, for example http://localhost:4318/v1/traces"
    )
    server.set_defaults(run=serve)
    calibrator = commands.add_parser("calibrate", help="find the activation ranges of an int8 encoder")
    calibrator.add_argument("--repository", type=Path, required=True, help="a repository with the fp32 encoder")
    calibrator.add_argument("--exact", required=True, metavar="MODEL", help="name of the fp32 encoder there")
    calibrator.add_argument("--questions", type=Path, required=True, help="a SQuAD-format file: its texts")
    calibrator.add_argument("--output", type=Path, required=True, help="activations.json beside the encoder's card")
    calibrator.set_defaults(run=calibrate_encoder)
    _add_golden(commands)
    meter = commands.add_parser("measure", help="measure the encoders of a cpu repository on this machine")
    meter.add_argument("--repository", type=Path, required=True, help="a repository built for cpu")
    meter.add_argument(
        "--questions", type=Path, required=True, help="a SQuAD-format file: its texts, and retrieval recall"
    )
    meter.set_defaults(run=measure)
    return parser.parse_args(arguments)


def _add_golden(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    golden = commands.add_parser("golden", help="find the golden answers of an encoder")
    golden.add_argument("--repository", type=Path, required=True, help="a repository with the fp32 encoder")
    golden.add_argument("--exact", required=True, metavar="MODEL", help="name of the fp32 encoder there")
    golden.add_argument("--output", type=Path, required=True, help="golden.json beside the encoder's card")
    golden.set_defaults(run=find_golden)


def main() -> int:
    """Run one command; return the exit status."""
    logging.basicConfig(format="%(message)s")
    arguments = parse(sys.argv[1:])
    try:
        arguments.run(arguments)
    except (CardError, LaunchError) as error:
        logging.error("error: %s", error)  # noqa: LOG015, TRY400 - the message is for the operator, without a traceback
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
