"""Alerts, dashboards and scaling ask for metrics that the code has, and every alert has a runbook."""

import importlib
import json
import re
from collections.abc import Iterator
from functools import cache

import prometheus_client
import promql_parser
import pytest
import yaml

from deploy.rendering.chart import CHART, DEPLOY
from deploy.tests.profiles import rendered
from deploy.tests.test_bad_values import refusal

ROOT = DEPLOY.parent
RUNBOOKS = ROOT / "docs" / "runbooks"
RECORDING = "from servicekit.telemetry.metrics import"
# Triton's own (its documentation, "Metrics"), and what Prometheus adds.
TRITON = {
    "nv_gpu_utilization": {"gpu_uuid"},
    "nv_gpu_memory_used_bytes": {"gpu_uuid"},
    "nv_gpu_memory_total_bytes": {"gpu_uuid"},
    "nv_gpu_power_usage": {"gpu_uuid"},
    "nv_inference_request_success": {"model", "version"},
    "nv_inference_queue_duration_us": {"model", "version"},
}
ADDED = {"namespace", "pod", "service", "job", "instance"}
SECTIONS = ("# ", "## What it means", "## See", "## Do", "## Then")


@cache
def metrics() -> dict[str, set[str]]:
    """Return every metric that a service exports, by the names Prometheus sees, with its labels."""
    for file in sorted(ROOT.glob("services/*/src/**/*.py")):
        if RECORDING in file.read_text("utf-8"):
            importlib.import_module(
                ".".join(
                    file.relative_to(file.parents[len(file.parts) - file.parts.index("src") - 2]).with_suffix("").parts
                )
            )
    ours = prometheus_client.REGISTRY._names_to_collectors
    known = {
        name: set(getattr(each, "_labelnames", ())) | ({"le"} if name.endswith("_bucket") else set())
        for name, each in ours.items()
    }
    return known | TRITON | {"up": set()}


def expressions() -> Iterator[tuple[str, str]]:
    for name in ("production", "scaled from nothing"):
        for each in rendered(name):
            if each["kind"] == "PrometheusRule":
                yield from ((rule["alert"], rule["expr"]) for rule in each["spec"]["groups"][0]["rules"])
            if each["kind"] == "ScaledObject":
                yield from (
                    (each["metadata"]["name"], trigger["metadata"]["query"]) for trigger in each["spec"]["triggers"]
                )
            for file, text in each.get("data", {}).items():
                if file.endswith(".json"):
                    yield from (
                        (file, target["expr"]) for panel in json.loads(text)["panels"] for target in panel["targets"]
                    )


def mistakes(expression: str) -> Iterator[str]:
    used = re.findall(r"([a-z_][a-z0-9_]*)\{([^}]*)\}", expression)
    if not used:
        yield "no metric"
    known = metrics()
    reached: set[str] = set(ADDED)
    for metric, selector in used:
        if metric not in known:
            yield f"{metric} is exported by nothing"
            continue
        labels = known[metric] | ADDED
        reached |= labels
        yield from (
            f"{metric} has no label {label}" for label in re.findall(r"(\w+)\s*=", selector) if label not in labels
        )
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        yield from (
            f"nothing has the label {label.strip()}" for label in group.split(",") if label.strip() not in reached
        )


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    found = list(expressions())
    assert len(found) > 60
    assert [(name, mistake) for name, expression in found for mistake in mistakes(expression)] == []


def test_a_wrong_name_would_be_found() -> None:
    assert list(mistakes('sum(rate(penstock_gateway_http_request_total{namespace="a"}[5m]))'))
    assert list(mistakes('sum by (model) (penstock_gateway_http_in_flight{namespace="a"})'))
    assert list(mistakes('penstock_gateway_http_in_flight{tenant="a"}'))


def test_legends_and_summaries_name_labels_that_are_left() -> None:
    for rule in yaml.safe_load((CHART / "files/alerts.yaml").read_text()):
        kept = {label.strip() for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(",")}
        kept |= ADDED if rule["expr"].startswith("up{") else set()
        assert set(re.findall(r"\$labels\.(\w+)", rule["summary"])) <= kept, rule["alert"]
    for dashboard in yaml.safe_load((CHART / "files/dashboards.yaml").read_text()):
        for query in (query for panel in dashboard["panels"] for query in panel["queries"]):
            kept = {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", query["expr"]) for label in group.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", query["legend"])) <= kept, query


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    rules = next(each for each in rendered("production") if each["kind"] == "PrometheusRule")["spec"]["groups"][0][
        "rules"
    ]
    linked = {rule["annotations"]["runbook_url"].rpartition("/")[2] for rule in rules}
    assert linked == {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"}
    for rule in rules:
        text = (RUNBOOKS / rule["annotations"]["runbook_url"].rpartition("/")[2]).read_text("utf-8")
        assert text.startswith(f"# {rule['alert']}\n")
        missing = [section for section in SECTIONS if f"\n{section}" not in f"\n{text}"]
        assert missing == [], rule["alert"]


@pytest.mark.parametrize("name", ["latency", "quality", "cost", "gpu"])
def test_a_dashboard_is_one_that_grafana_reads(name: str) -> None:
    found = next(each for each in rendered("production") if each["metadata"]["name"] == f"penstock-dashboard-{name}")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(found["data"][f"penstock-{name}.json"])
    assert dashboard["uid"] == f"penstock-{name}"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
    assert all(target["refId"] for panel in dashboard["panels"] for target in panel["targets"])


def test_every_service_is_scraped() -> None:
    manifests = rendered("production")
    monitor = next(each for each in manifests if each["kind"] == "ServiceMonitor")["spec"]
    chosen = [
        each["metadata"]["name"]
        for each in manifests
        if each["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert len(chosen) == 6 + 3
    for each in manifests:
        if each["kind"] == "Service":
            assert monitor["endpoints"][0]["port"] in {port["name"] for port in each["spec"]["ports"]}


def test_a_scrape_every_so_often_is_written_in_seconds() -> None:
    assert "interval" in refusal({"monitoring": {"interval": "often"}})


def test_prometheus_understands_each_expression_of_rules_and_dashboards() -> None:
    rules = next(each for each in rendered("production") if each["kind"] == "PrometheusRule")["spec"]
    ruled = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    shown = [expression.replace("$__rate_interval", "5m") for _, expression in expressions()]
    assert ruled
    assert shown
    for expression in [*ruled, *shown]:
        promql_parser.parse(str(expression))
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse(f"sum({ruled[0]}")
