"""The service table is the one place: settings, local stack, compose file, chart and documentation say the same."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from penstock_cli.settings import Settings
from penstock_cli.stack.table import Process, StackError, container_processes, load_processes, read_table

from deploy.rendering import __main__ as rendering
from deploy.rendering.chart import CHART, DEPLOY
from deploy.rendering.schema import SETTINGS
from deploy.tests.cluster import pods
from deploy.tests.profiles import rendered

ROOT = DEPLOY.parent
COMPOSE = ROOT / "docker-compose.yml"
TABLE = read_table()
SERVICES = [name for name, entry in TABLE.processes.items() if entry.module]
LIBRARIES = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}


def in_containers(hosts: Mapping[str, str] | None = None, *, mtls: bool = False) -> dict[str, Process]:
    found = container_processes(TABLE, hosts or {name: name for name in TABLE.processes}, mtls=mtls)
    return {process.name: process for process in found}


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting_of_its_service_and_has_a_value_that_it_takes(
    name: str, monkeypatch, tmp_path
) -> None:
    settings = SETTINGS[name.replace("-", "_")]
    prefix = name.replace("-", "_").upper() + "_"
    process = in_containers(mtls=True)[name]
    fields = {variable.removeprefix(prefix).lower() for variable in process.environment if variable not in LIBRARIES}
    fields |= {variable.lower() for variable in TABLE.processes[name].stores.values()}
    assert fields <= set(settings.model_fields)
    there = tmp_path / "tokenizer.json"
    there.touch()
    for variable, value in process.environment.items():
        monkeypatch.setenv(variable, str(there) if variable.endswith("TOKENIZER_FILE") else value)
    loaded = settings()
    assert loaded.tls is not None
    assert str(loaded.tls.authority) == "/etc/penstock/tls/ca.crt"


@pytest.mark.parametrize("name", SERVICES)
def test_the_settings_defaults_are_the_tables_ports(name: str) -> None:
    fields = SETTINGS[name.replace("-", "_")].model_fields
    ports = TABLE.processes[name].ports
    doors = {"grpc": "address", "metrics": "metrics_address", "rest": "rest_address"}
    assert {fields[doors[port]].default for port in ports} == {f"127.0.0.1:{number}" for number in ports.values()}
    for called in TABLE.processes[name].calls:
        if TABLE.processes[called].module:
            default = fields[f"{called.replace('-', '_')}_address"].default
            assert default == f"127.0.0.1:{TABLE.processes[called].ports['grpc']}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_calls_nobody_but_whom_the_table_says(name: str) -> None:
    prefix = name.replace("-", "_").upper() + "_"
    own = {"ADDRESS", "METRICS_ADDRESS", "REST_ADDRESS"}
    told = {
        variable.removeprefix(prefix).removesuffix("_ADDRESS").lower().replace("_", "-")
        for variable in (f"{prefix}{field.upper()}" for field in SETTINGS[name.replace("-", "_")].model_fields)
        if variable.endswith("_ADDRESS") and variable.removeprefix(prefix) not in own
    }
    assert told == {called for called in TABLE.processes[name].calls if TABLE.processes[called].module}


def test_no_port_is_given_twice() -> None:
    ports = [number for entry in TABLE.processes.values() for number in entry.ports.values()]
    assert len(set(ports)) == len(ports)


def test_a_laptop_and_a_container_differ_in_places_alone(tmp_path) -> None:
    local = {process.name: process for process in load_processes(Settings(state=tmp_path))}
    for name, process in in_containers().items():
        here = {
            key: value
            for key, value in local[name].environment.items()
            if not re.search("_(TRACE_FILE|TRACE_RATIO)$", key)
        }
        assert set(process.environment) == set(here), name
        assert process.ports == local[name].ports
        assert len(process.command) == len(local[name].command)
        assert all("{" not in value.replace('{"', "") for value in process.environment.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calls: [inference]", "calls: [inferense]", "there is no process 'inferense'"),
        ("ready: {http: rest", "ready: {http: resd", "ask the port 'resd'"),
        ("    copies: one", "    copy: one", "processes.vector-search.copy"),
        ("    keeps: embedded", "    keeps: sometimes", "processes.inference.keeps"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path, old: str, new: str, message: str) -> None:
    text = (DEPLOY / "services.yaml").read_text()
    assert old in text
    (tmp_path / "services.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(StackError) as caught:
        read_table(tmp_path / "services.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", SERVICES)
def test_the_chart_tells_a_service_what_the_table_does(name: str) -> None:
    hosts = {each: f"penstock-{each}" for each in TABLE.processes}
    for profile, mtls in (("cpu", False), ("production", True)):
        wanted = in_containers(hosts, mtls=mtls)[name].environment
        pod = next(each for each in pods(rendered(profile)) if each.component == name)
        container = pod.spec["containers"][0]
        told = {each["name"]: each.get("value") for each in container["env"]}
        assert {key: told.get(key) for key in wanted if key != "INFERENCE_SERVERS"} == {
            key: value for key, value in wanted.items() if key != "INFERENCE_SERVERS"
        }
        assert {each["name"]: each["containerPort"] for each in container["ports"]} == TABLE.processes[name].ports
        prefix = name.replace("-", "_").upper()
        stores = {f"{prefix}_{variable}" for variable in TABLE.processes[name].stores.values()}
        assert (stores <= set(told)) == (profile == "production" or not stores)


def test_every_derived_file_is_up_to_date() -> None:
    derived = rendering.first() | rendering.manifests()
    assert [str(path) for path in [*rendering.stale(derived), *rendering.left_over(rendering.manifests())]] == []
    assert (CHART / "services.yaml").read_bytes() == (DEPLOY / "services.yaml").read_bytes()


def test_the_documentation_lists_the_ports_of_the_table() -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    for name, entry in TABLE.processes.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| {name} |")), "")
        assert {int(number) for number in re.findall(r"\b\d{4}\b", row)} == set(entry.ports.values()), name


def compose_service(name: str) -> dict[str, Any]:
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    assert name in services, f"docker-compose.yml has no service {name}"
    return dict(services[name])


@pytest.mark.parametrize("name", TABLE.processes)
def test_the_compose_file_tells_a_service_what_the_table_does(name: str) -> None:
    service = compose_service(name)
    given = service.get("environment", {})
    told = given if isinstance(given, dict) else dict(each.split("=", 1) for each in given)
    wanted = in_containers()[name].environment
    assert {key: str(told.get(key)) for key in wanted} == dict(wanted)
    assert "profiles" not in service


@pytest.mark.parametrize("name", TABLE.processes)
def test_the_compose_file_publishes_ports_of_the_table_alone(name: str) -> None:
    ports = {str(number) for number in TABLE.processes[name].ports.values()}
    for each in compose_service(name).get("ports", ()):
        target = str(each["target"] if isinstance(each, dict) else str(each).rsplit(":", 1)[-1])
        assert target in ports
