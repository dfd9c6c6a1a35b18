"""Network policies: which pods reach what, compared with all that they need."""

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import K8S, OVERLAYS, Resource, build, containers, of_kind, pods

NAME = "app.kubernetes.io/name"
# Selectors and address ranges, by the names that the tables below have for them.
OBSERVERS = "namespaces with lilypad/observes"
DNS = "the cluster's DNS"
ANYWHERE = "any address but the metadata address"
INTERNET = "public addresses"
CALLERS = "callers"
NAMES: list[tuple[object, str]] = [
    ({"namespaceSelector": {"matchLabels": {"lilypad/observes": "true"}}}, OBSERVERS),
    ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}, "KEDA"),
    (
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "cnpg-system"}}},
        "the database's operator",
    ),
    (
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        },
        DNS,
    ),
    ({"podSelector": {"matchLabels": {"cnpg.io/cluster": "database"}}}, "database"),
    ({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}, ANYWHERE),
    (
        {
            "ipBlock": {
                "cidr": "0.0.0.0/0",
                "except": [
                    "10.0.0.0/8",
                    "100.64.0.0/10",
                    "169.254.0.0/16",
                    "172.16.0.0/12",
                    "192.168.0.0/16",
                ],
            }
        },
        INTERNET,
    ),
]
SERVICES = ("gateway", "generator", "benchmarker", "metrics", "realtime", "webhooks")
STORES = ("gateway", "benchmarker", "metrics", "webhooks")

Path = tuple[str, str, Any]
# (who, whom, port)
BETWEEN: set[Path] = {
    ("edge", "gateway", 8000),
    ("edge", "realtime", 8001),
    ("nats", "nats", 6222),
    *((service, "nats", 4222) for service in (*SERVICES, "worker")),
}
OUT: set[Path] = {
    ("", DNS, "53/UDP"),
    ("", DNS, "53/TCP"),
    *((service, ANYWHERE, 5432) for service in STORES),
    *((service, INTERNET, 443) for service in ("generator", "webhooks", "worker")),
    *(("gateway", ANYWHERE, port) for port in (25, 465, 587)),
}
IN: set[Path] = {
    (CALLERS, "edge", 8080),
    (OBSERVERS, "edge", 9902),
    (OBSERVERS, "nats", 8222),
    ("KEDA", "nats", 8222),
    *((OBSERVERS, service, 8080) for service in SERVICES),
}
DATABASE_BETWEEN: set[Path] = {
    *((service, "database", 5432) for service in STORES),
    ("database", "database", 5432),
    ("database", "database", 8000),
}
DATABASE_OUT: set[Path] = {("database", ANYWHERE, 443), ("database", ANYWHERE, 6443)}
DATABASE_IN: set[Path] = {
    ("the database's operator", "database", 5432),
    ("the database's operator", "database", 8000),
    (OBSERVERS, "database", 9187),
}
TRACES: set[Path] = {(service, OBSERVERS, 4318) for service in (*SERVICES, "worker")}


def peers(selector: Any) -> list[str]:
    """Return the names of the pods, namespaces or addresses that a selector stands for."""
    for known, name in NAMES:
        if selector == known:
            return [name]
    if selector == {"podSelector": {}}:
        return [""]
    match selector:
        case {"podSelector": {"matchLabels": {"app.kubernetes.io/name": name, **more}, **rest}}:
            if not more and not rest and len(selector) == 1:
                return [str(name)]
        case {"podSelector": {"matchExpressions": [expression], **rest}}:
            if (
                not rest
                and len(selector) == 1
                and (expression["key"], expression["operator"])
                == (
                    NAME,
                    "In",
                )
            ):
                return list(expression["values"])
    return [f"unknown: {selector}"]


def paths(resources: list[Resource], way: str) -> Iterator[Path]:
    """Yield (who, whom, port) for all that the policies admit one way, `ingress` or `egress`."""
    for policy in of_kind(resources, "NetworkPolicy"):
        spec = policy["spec"]
        assert (way.capitalize() in spec["policyTypes"]) or way not in spec, policy["metadata"]
        for rule in spec.get(way, []):
            others = rule.get("from" if way == "ingress" else "to")
            named = [name for other in others for name in peers(other)] if others else [CALLERS]
            for own in peers({"podSelector": spec["podSelector"]}):
                for other in named:
                    for port in rule.get("ports") or [{"port": "any"}]:
                        number = port["port"]
                        if "protocol" in port:
                            number = f"{number}/{port['protocol']}"
                        yield (other, own, number) if way == "ingress" else (own, other, number)


@pytest.mark.parametrize("folder", [*OVERLAYS, "traces"])
def test_pods_reach_and_are_reached_by_what_they_need_and_by_nothing_else(folder: str) -> None:
    between, out, into = set(BETWEEN), set(OUT), set(IN)
    if folder == "traces":
        resources = build(K8S / "tests" / "with" / folder)
        out |= TRACES
    else:
        resources = build(K8S / "overlays" / folder)
    if folder.startswith("cloudnative-pg"):
        between, out, into = between | DATABASE_BETWEEN, out | DATABASE_OUT, into | DATABASE_IN
    for way, needed in (("egress", between | out), ("ingress", between | into)):
        admitted = set(paths(resources, way))
        # (who, whom, port) of each
        assert admitted - needed == set(), f"no policy may admit this {way}"
        assert needed - admitted == set(), f"admit this {way} by a policy"
    [nobody] = [p for p in of_kind(resources, "NetworkPolicy") if p["metadata"]["name"] == "nobody"]
    assert nobody["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_ports_that_policies_open_are_those_of_the_containers(overlay: list[Resource]) -> None:
    listened = {
        name.partition("-")[0]: {
            port["containerPort"] for c in containers(pod) for port in c.get("ports", [])
        }
        for name, pod in pods(overlay)
    }
    for _, whom, port in BETWEEN | IN:
        assert port in listened[whom], f"{whom}: policies open port {port}; no container has it"
    for service in of_kind(overlay, "Service"):
        name = service["metadata"]["name"]
        # Each names its own pods, which the selector of their workload has, too.
        assert service["spec"]["selector"] == {NAME: name}, name
        for port in service["spec"]["ports"]:
            named = {
                p["name"] for n, pod in pods(overlay) if n == name
                for c in pod["containers"] for p in c["ports"]
            }  # fmt: skip
            assert port.get("targetPort", port["port"]) in listened[name] | named, name
