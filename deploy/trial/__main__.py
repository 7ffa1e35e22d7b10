"""Installs the chart's CPU profile in Docker and lets `helm test` ask it: `python -m deploy.trial`.

Every pod that the chart renders runs from the built images as its user, with its read-only root, limits, settings,
secrets, probes and mTLS. What Docker has not is stood in for: an API server that serves EndpointSlices. Network
policies are not enforced here; that they fit the calls is tested on the rendered objects.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.rendering.chart import Manifest, profile_values, render
from deploy.trial.api_server import Endpoints, api_server
from deploy.trial.docker import Cluster, Running, docker, remove
from deploy.trial.secrets import Authority, write, write_identity

NETWORK = "penstock-trial"
NAMESPACE = "penstock"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
READY_S = 300.0
MOST_RESTARTS = 5
"""As many as a machine with too much to do may need; a mistake in the chart ends a pod every time."""
VALUES = {
    "tls": {"enabled": True, "existingSecret": "penstock-tls"},
    "test": {"existingSecret": "penstock-test"},
}


class TrialFailed(Exception):
    """The installation does not do what it should; the message says what."""


def main() -> int:
    """Return 0 when everything is ready and the test's answer is right."""
    asked = _parse()
    values = profile_values("cpu", VALUES, {"image": {"registry": asked.registry, "tag": asked.tag}})
    manifests = render(values, namespace=NAMESPACE)
    started = time.monotonic()
    remove(NETWORK)
    docker("network", "create", NETWORK)
    try:
        with tempfile.TemporaryDirectory() as folder, _cluster(Path(folder), manifests) as (cluster, endpoints):
            _install(cluster, endpoints, manifests, started)
    except TrialFailed as error:
        sys.stderr.write(f"chart-test: {error}\n")
        return 1
    finally:
        remove(NETWORK)
    _say(f"the chart's CPU profile runs, {time.monotonic() - started:.0f} s in all")
    return 0


@contextmanager
def _cluster(folder: Path, manifests: list[Manifest]) -> Iterator[tuple[Cluster, Endpoints]]:
    """Make the secrets, write the configuration maps, and serve the endpoints."""
    gateway = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", NETWORK)
    authority, endpoints = Authority.fresh(), Endpoints(token="trial")  # noqa: S106  of this run alone
    services = [each["metadata"]["name"] for each in manifests if each["kind"] == "Service"]
    authority.write(folder / "penstock-tls", [*services, "localhost"])
    write_identity(folder / "penstock-identity")
    certificate = authority.write(folder / "api-server", [gateway])
    write(folder / "account" / "token", endpoints.token.encode())
    write(folder / "account" / "ca.crt", certificate["ca.crt"].read_bytes())
    with api_server(endpoints, gateway, NAMESPACE, certificate) as port:
        access = {"KUBERNETES_SERVICE_HOST": gateway, "KUBERNETES_SERVICE_PORT": str(port)}
        cluster = Cluster(NETWORK, folder, {"inference": access}, {"inference": {ACCOUNT: folder / "account"}})
        cluster.write_maps(manifests)
        folder.chmod(0o755)
        yield cluster, endpoints


def _install(cluster: Cluster, endpoints: Endpoints, manifests: list[Manifest], started: float) -> None:
    workloads = [each for each in manifests if each["kind"] in {"Deployment", "StatefulSet"}]
    running = []
    for each in workloads:
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        running.append(cluster.start(component, each["metadata"]["name"], each["spec"]["template"]["spec"]))
    pools = [each for each in running if each.component.startswith("pool-")]
    _await(pools, started)
    for pool in pools:
        endpoints.put(f"penstock-{pool.component}", {pool.address()})
    _await([each for each in running if each not in pools], started)
    for pod in running:
        refusal = pod.refusal("livenessProbe")
        _require(not refusal, f"{pod.component} does not pass its liveness probe: {refusal}")
    made = docker("exec", f"{NETWORK}-gateway", "python3", "-m", "gateway.admin", "create", "--tenant", "trial")
    write(cluster.folder / "penstock-test" / "api-key", json.loads(made)["key"].encode())
    _helm_test(cluster, manifests)
    _take_a_pool_away(pools[0], endpoints, next(each for each in running if each.component == "gateway"))


def _await(waiting: list[Running], started: float) -> None:
    waiting = list(waiting)
    while waiting:
        refusals = {each.component: each.refusal("readinessProbe") for each in waiting}
        for each in [each for each in waiting if not refusals[each.component]]:
            waiting.remove(each)
            _say(f"{each.component} is ready, {time.monotonic() - started:.0f} s")
        for each in waiting:
            _require(each.restarts() <= MOST_RESTARTS, f"{each.component} ends again and again:\n{each.log()}")
            late = time.monotonic() - started > READY_S
            _require(not late, f"{each.component} is not ready: {refusals[each.component]}\n{each.log()}")
        time.sleep(0.5)


def _helm_test(cluster: Cluster, manifests: list[Manifest]) -> None:
    """Run the pod of `helm test` to its end."""
    pod = next(each for each in manifests if each["kind"] == "Pod")
    running = cluster.start("test", "penstock-test", pod["spec"])
    status = docker("wait", running.name, timeout_s=120)
    _require(status == "0", f"helm test failed:\n{running.log(50)}")
    _say("helm test: " + running.log().splitlines()[-1])


def _take_a_pool_away(pool: Running, endpoints: Endpoints, gateway: Running) -> None:
    """End the only Triton as a drain does; its models have to go from the rotation, and to come back with it."""
    endpoints.put(f"penstock-{pool.component}", set())
    _until(lambda: not _models_ready(gateway), "the pool still thinks that models are ready")
    docker("stop", "--time", "60", pool.name)
    ended = json.loads(docker("inspect", pool.name))[0]["State"]
    _require(ended["ExitCode"] in {0, 143}, f"Triton ended with {ended['ExitCode']}:\n{pool.log()}")
    docker("start", pool.name)
    _await([pool], time.monotonic())
    endpoints.put(f"penstock-{pool.component}", {pool.address()})
    _until(lambda: _models_ready(gateway), "the pool did not take the new pod up")
    _say("a pod of the pool was drained, and taken up again")


def _models_ready(gateway: Running) -> bool:
    program = "import urllib.request as r; print(r.urlopen('http://penstock-inference:9084/metrics').read().decode())"
    text = docker("exec", gateway.name, "python3", "-c", program)
    lines = [line for line in text.splitlines() if line.startswith("penstock_inference_model_ready{")]
    return bool(lines) and all(line.endswith(" 1.0") for line in lines)


def _until(check: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + 60
    while not check():
        _require(time.monotonic() < end, otherwise)
        time.sleep(0.5)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TrialFailed(otherwise)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy.trial", description=__doc__)
    parser.add_argument(
        "--registry", default="penstock", help="images are REGISTRY/NAME:TAG (default: what make images builds)"
    )
    parser.add_argument("--tag", default="0.1.0")
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
