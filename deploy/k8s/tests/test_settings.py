"""The values of the services' settings, and the addresses that have to agree with each other."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import ValidationError

from .conftest import K8S, ROOT, Resource, build, of_kind, pods
from .test_policies import SETTINGS, make_secrets

EDGE = ROOT / "deploy" / "envoy"


def settings_of(resources: list[Resource], service: str) -> dict[str, str]:
    [found] = [
        dict(m["data"])
        for m in of_kind(resources, "ConfigMap")
        if m["metadata"]["name"].startswith(f"{service}-settings")
    ]
    return found


def test_every_service_accepts_the_values_of_its_settings_and_secret(
    overlay: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = make_secrets()
    for name, pod in pods(overlay):
        service = name.partition("-")[0]
        if service not in SETTINGS:
            continue
        given = settings_of(overlay, service) | secrets[service]
        given |= {v["name"]: v["value"] for v in pod["containers"][0].get("env", [])}
        with monkeypatch.context() as environment:
            for variable in SETTINGS[service].model_fields:
                environment.delenv(variable.upper(), raising=False)
            for variable, value in given.items():
                environment.setenv(variable, value)
            try:
                SETTINGS[service]()
            except ValidationError as error:
                [first, *_] = error.errors()
                variable = "_".join(map(str, first["loc"])).upper()
                pytest.fail(f"{name} refuses its {variable}: {first['msg']}", pytrace=False)


def test_the_edge_services_and_containers_agree_about_ports(overlay: list[Resource]) -> None:
    edge, services = settings_of(overlay, "edge"), of_kind(overlay, "Service")
    opened = {
        name: {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
        for name, pod in pods(overlay)
        if name in ("edge", "gateway", "realtime")
    }
    ports = {s["metadata"]["name"]: s["spec"]["ports"] for s in services}
    for service in ("gateway", "realtime"):
        [upstream] = json.loads(edge[service.upper()])
        address: dict[str, Any] = upstream["endpoint"]["address"]["socket_address"]
        settings = settings_of(overlay, service)
        assert settings.get("HTTP_HOST") == "0.0.0.0", f"{service}.env: set HTTP_HOST=0.0.0.0"
        assert address["address"] == service, f"edge.env: {service.upper()} is the service's name"
        number = int(settings.get("HTTP_PORT", 0))
        found = {
            "port of the Service": ports[service][0]["port"],
            "port `http` of the container": opened[service]["http"],
            f"port of {service.upper()} in edge.env": address["port_value"],
        }
        for place, port in found.items():
            assert port == number, f"{service}: {place} is {port}, and HTTP_PORT is {number}"
    assert edge["LISTEN_ADDRESS"] == "0.0.0.0", "edge.env: callers reach no other LISTEN_ADDRESS"
    assert int(edge["LISTEN_PORT"]) == opened["edge"]["http"], "edge.env: LISTEN_PORT"
    admin, observed = (json.loads(edge[name])["socket_address"] for name in ("ADMIN", "OBSERVED"))
    assert admin["address"] == "127.0.0.1", "edge.env: ADMIN may stop the edge; keep it local"
    # As deploy/envoy/drain.sh expects.
    assert admin["port_value"] == 9901, "edge.env: the port of ADMIN is that of drain.sh"
    assert observed == {"address": "0.0.0.0", "port_value": opened["edge"]["observed"]}


def test_the_edge_is_given_every_variable_of_its_template_and_no_other(
    overlay: list[Resource],
) -> None:
    template = "".join((EDGE / name).read_text() for name in ("envoy.yaml", "tls.json"))
    made = {"CERTIFICATE"}  # by the pod's first container
    read = set(re.findall(r"\$\{([A-Z_]+)\}", template)) - made
    given = {*settings_of(overlay, "edge")} - {"TLS_DIRECTORY"}
    assert given - read == set(), "edge.env: no template reads these; remove or correct them"
    assert read - given == set(), "edge.env: set these, which deploy/envoy/envoy.yaml reads"


def test_the_gateways_that_share_limits_without_the_bus_are_as_many_as_the_autoscaler_keeps(
    overlay: list[Resource],
) -> None:
    [scaler] = [
        s["spec"]
        for s in of_kind(overlay, "HorizontalPodAutoscaler")
        if s["metadata"]["name"] == "gateway"
    ]
    replicas, kept = settings_of(overlay, "gateway")["REPLICAS"], scaler["minReplicas"]
    assert int(replicas) == kept, f"gateway.env: REPLICAS is {replicas}, and `minReplicas` {kept}"


def test_gateway_and_realtime_have_the_same_public_address(overlay: list[Resource]) -> None:
    addresses = {s: settings_of(overlay, s).get("PUBLIC_URL") for s in ("gateway", "realtime")}
    for service, address in addresses.items():
        # The default is this machine's address, which no caller reaches.
        assert address, f"{service}.env: set PUBLIC_URL to the https address of the edge"
    assert len({*addresses.values()}) == 1, f"PUBLIC_URL of both is one address: {addresses}"
    url = urlsplit(addresses["gateway"])
    assert url.scheme == "https" or url.hostname == "localhost", "PUBLIC_URL begins with https://"


def test_every_service_of_the_project_has_its_workload(overlay: list[Resource]) -> None:
    found = {name.partition("-")[0] for name, _ in pods(overlay)}
    missing = {*SETTINGS, "edge", "nats"} - found
    assert not missing, f"list the manifests of {sorted(missing)} in base/kustomization.yaml"


def test_traces_are_sent_to_the_port_that_the_policy_opens() -> None:
    resources = build(K8S / "tests" / "with" / "traces")
    [policy] = [p for p in of_kind(resources, "NetworkPolicy") if p["metadata"]["name"] == "traces"]
    [rule] = policy["spec"]["egress"]
    for service in SETTINGS:
        url = urlsplit(settings_of(resources, service)["OTEL_EXPORTER_OTLP_ENDPOINT"])
        # OTLP over HTTP, which the services speak; 4317 is gRPC's.
        assert (url.scheme, url.port) == ("http", rule["ports"][0]["port"]) == ("http", 4318)


def test_an_image_of_an_overlay_is_one_that_the_base_uses() -> None:
    used = set()
    for file in (K8S / "base").glob("*.yaml"):
        used |= set(re.findall(r"image: ([\w./-]+):", file.read_text()))
    for file in (K8S / "overlays").glob("*/kustomization.yaml"):
        named = {image["name"] for image in yaml.safe_load(file.read_text()).get("images", [])}
        # Kustomize ignores a name that no container has.
        unknown = sorted(named - used)
        assert not unknown, f"{file.parent.name}: {unknown} are none of {sorted(used)}"
