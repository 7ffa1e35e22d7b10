"""The network policies let through exactly the edges of the service table."""

import pytest
from penstock_cli.stack.table import read_table

from deploy.rendering.chart import profile_values, render
from deploy.tests.cluster import edges
from deploy.tests.profiles import MATRIX, rendered


def declared(pools: set[str]) -> set[tuple[str, str, int]]:
    """Return the edges of the table, with the pools in the place of Triton."""
    table = read_table().processes
    return {
        (caller, place, table[called].ports["grpc"])
        for caller, entry in table.items()
        for called in entry.calls
        for place in (pools if called == "triton" else {called})
    }


@pytest.mark.parametrize("name", [name for name in MATRIX if name != "no network policies"])
def test_pods_reach_each_other_along_the_edges_of_the_table_and_nowhere_else(name: str) -> None:
    manifests = rendered(name)
    pools = {
        each["metadata"]["labels"]["app.kubernetes.io/component"] for each in manifests if each["kind"] == "Deployment"
    }
    assert set(edges(manifests)) == declared({pool for pool in pools if pool.startswith("pool-")})


def test_without_policies_everybody_reaches_everybody() -> None:
    found = set(edges(rendered("no network policies")))
    assert ("embedding", "vector-search", 8085) in found
    assert len(found) > 10 * len(declared({"pool-cpu"}))


def test_every_pod_is_under_the_policy_that_denies_all() -> None:
    deny = next(each for each in rendered("production") if each["metadata"]["name"] == "penstock-default-deny")
    assert set(deny["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    chosen = deny["spec"]["podSelector"]["matchLabels"]
    assert set(chosen) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


def test_stores_are_reached_by_their_users_alone_and_only_where_they_are_used() -> None:
    def users(name: str, port: int) -> set[str]:
        return {
            each["metadata"]["labels"]["app.kubernetes.io/component"]
            for each in rendered(name)
            if each["kind"] == "NetworkPolicy"
            for rule in each["spec"].get("egress", ())
            if any(to["port"] == port for to in rule["ports"])
        }

    assert users("production", 5432) == {"gateway", "inference"}
    assert users("production", 6379) == {"gateway"}
    assert users("production", 19530) == {"vector-search"}
    assert users("cpu", 5432) == users("cpu", 6379) == users("cpu", 19530) == set()
    assert users("production", 6443) == {"inference"}
    assert users("production", 443) == {"gateway", "inference", "pool-llm-store"}


def test_what_is_outside_is_not_the_cluster_and_can_be_shut_off() -> None:
    closed = render(profile_values("cpu", {"networkPolicy": {"outside": {"enabled": False}}}))
    gateway = next(
        each for each in closed if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "penstock-gateway"
    )
    assert all("ipBlock" not in peer for rule in gateway["spec"]["egress"] for peer in rule["to"])


def test_the_test_of_the_release_reaches_the_gateway_though_it_is_no_client() -> None:
    policies = {
        each["metadata"]["name"]: each["spec"] for each in rendered("production") if each["kind"] == "NetworkPolicy"
    }
    test = policies["penstock-test"]
    assert "ingress" not in test
    selector = {"podSelector": test["podSelector"]}
    let_in = [rule["ports"] for rule in policies["penstock-gateway"]["ingress"] if selector in rule["from"]]
    assert let_in == [[{"protocol": "TCP", "port": 8080}]]
    gateway = {"podSelector": policies["penstock-gateway"]["podSelector"]}
    assert [rule["ports"][0]["port"] for rule in test["egress"] if gateway in rule["to"]] == [8080]


def test_the_doors_are_open_to_the_callers_that_are_named() -> None:
    gateway = next(
        each
        for each in rendered("production")
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "penstock-gateway"
    )
    doors = [rule for rule in gateway["spec"]["ingress"] if {port["port"] for port in rule["ports"]} == {8080, 8081}]
    assert [rule["from"] for rule in doors] == [
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway-system"}}}]
    ]
