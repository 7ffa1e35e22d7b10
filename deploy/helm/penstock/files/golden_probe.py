"""Says whether a Triton server may get requests: its models are ready and answer their golden questions right.

Runs inside the container of the server as its readiness probe, with nothing but what Python brings. Of `golden.json`
beside a model it asks the cases of tensors; those of conversations are the pool's, which knows how the model is
prompted. A server that has answered right once and is too busy now is not a wrong one: a wrong answer takes it out.
"""
# ruff: noqa: INP001  a program, not a module of a package

import argparse
import json
import math
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSED = Path("/tmp/golden-passed")  # noqa: S108  the one folder of the container that can be written to


class Wrong(Exception):
    """The server does not answer as it should."""


@dataclass(frozen=True)
class Server:
    """The server of this container, by the address of its REST."""

    url: str
    timeout_s: float

    def fetch(self, path: str, body: bytes | None = None) -> bytes:
        """Return what the server answers; raise Wrong for a refusal, TimeoutError where it takes too long."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", body, headers)  # noqa: S310  http alone
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise Wrong(f"{path} answered {error.code}: {error.read(200).decode(errors='replace')}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise TimeoutError from error
            raise Wrong(f"{path}: {error.reason}") from error


def main() -> None:
    """Exit with 0 where the server may get requests, else with the reason."""
    asked = parse()
    server = Server(f"http://127.0.0.1:{asked.port}/v2", asked.timeout_s)
    try:
        server.fetch("health/ready")
        for model in asked.models:
            server.fetch(f"models/{model}/ready")
            check(server, model, asked.repository / model / "golden.json")
    except Wrong as error:
        sys.exit(f"not ready: {error}")
    except TimeoutError:
        if not asked.passed.exists() or asked.passed.read_text() != boot():
            sys.exit(f"not ready: no answer in {asked.timeout_s} s")
    asked.passed.write_text(boot())


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--passed", type=Path, default=PASSED)
    parser.add_argument("--timeout-s", type=float, default=4.0)
    parser.add_argument("models", nargs="*")
    return parser.parse_args()


def check(server: Server, model: str, golden: Path) -> None:
    """Raise Wrong unless the model answers its cases of tensors right."""
    cases = json.loads(golden.read_text("utf-8"))["cases"] if golden.exists() else []
    for case in cases:
        if "inputs" in case:
            answer = server.fetch(f"models/{model}/infer", json.dumps({"inputs": case["inputs"]}).encode())
            outputs = {each["name"]: each for each in json.loads(answer)["outputs"]}
            for expected in case["outputs"]:
                compare(f"{model}: {case['name']}", outputs.get(expected["name"]), expected)


def compare(what: str, got: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    """Raise Wrong unless an output is as expected, within its tolerances."""
    if got is None or got["shape"] != expected["shape"]:
        raise Wrong(f"{what}: the output is not there or has another shape")
    if len(got["data"]) != len(expected["data"]):
        raise Wrong(f"{what}: too few values")
    pairs = list(zip(got["data"], expected["data"], strict=True))
    if isinstance(expected["data"][0], str):
        right = all(a == b for a, b in pairs)
    else:
        atol, rtol = expected.get("atol", 0), expected.get("rtol", 0)
        right = all(abs(a - b) <= atol + rtol * abs(b) for a, b in pairs)
        right = right and cosine(pairs, expected["shape"][-1]) >= expected.get("min_cosine", -1)
    if not right:
        raise Wrong(f"{what}: a wrong answer")


def cosine(pairs: list[tuple[float, float]], width: int) -> float:
    """Return the least cosine of a row to the one expected."""
    least = 1.0
    for start in range(0, len(pairs), width):
        row = pairs[start : start + width]
        norms = math.sqrt(sum(a * a for a, _ in row)) * math.sqrt(sum(b * b for _, b in row))
        least = min(least, sum(a * b for a, b in row) / norms if norms else -1.0)
    return least


def boot() -> str:
    """Return a text that is another one after the server's container was started anew."""
    return Path("/proc/1/stat").read_text().rsplit(")", 1)[1].split()[19]


main()
