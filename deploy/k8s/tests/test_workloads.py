"""Tests of how workloads start, are found, probed, scaled and placed, beside test_policies."""

import re
from typing import Any

import pytest

from benchmarker.queue import CLASSES
from common.contracts.measuring import MEASURE
from common.jobs import consumer_name

from .conftest import K8S, ROOT, Resource, build, containers, of_kind, pods

NAME = "app.kubernetes.io/name"
HOSTNAME = "kubernetes.io/hostname"
# Paths that tell whether a replica has started, serves, and lives.
HTTP = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
PROBE = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
PATHS = {
    "gateway": HTTP,
    "realtime": HTTP,
    **dict.fromkeys(("generator", "benchmarker", "metrics", "webhooks"), PROBE),
    "edge": {"readinessProbe": "/ready"},
    "nats": {
        "startupProbe": "/healthz",
        "readinessProbe": "/healthz",
        "livenessProbe": "/healthz?js-enabled-only=true",
    },
}
# Seconds that a replica may take to start, migrations included, and may hang before it is killed.
MIN_START_S, MIN_HANG_S, MAX_HANG_S = 120, 20, 90


def seconds(probe: Resource) -> int:
    return int(probe["periodSeconds"]) * int(probe.get("failureThreshold", 3))


def test_every_pod_is_found_by_its_own_name_and_by_no_other(overlay: list[Resource]) -> None:
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        name, spec = workload["metadata"]["name"], workload["spec"]
        own = {"matchLabels": {NAME: name}}
        assert spec["selector"] == own, f"{name}: its selector must be {own}"
        assert spec["template"]["metadata"]["labels"][NAME] == name, f"{name}: label its pods so"
        pod = spec["template"]["spec"]
        for spread in pod.get("topologySpreadConstraints", []):
            assert spread["labelSelector"] == own, f"{name}: spread over its own pods, {own}"
            # A cluster with one node left still runs all of them.
            assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
        for apart in (pod.get("affinity") or {}).get("podAntiAffinity", {}).values():
            assert [a["labelSelector"] for a in apart] == [own], name
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        selected = budget["spec"].get("selector")
        assert selected == {"matchLabels": {NAME: name}}, f"{name}: its budget is of other pods"
    for job in of_kind(overlay, "ScaledJob"):
        labels = job["spec"]["jobTargetRef"]["template"]["metadata"]["labels"]
        worker_class = job["metadata"]["name"].removeprefix("worker-")
        assert (labels[NAME], labels["lilypad/worker-class"]) == ("worker", worker_class)
        # An autoscaler of nodes does not remove the one that measures.
        notes = job["spec"]["jobTargetRef"]["template"]["metadata"]["annotations"]
        assert notes == {"karpenter.sh/do-not-disrupt": "true"}


def test_replicas_are_found_one_by_one_and_before_they_are_ready(overlay: list[Resource]) -> None:
    services = {s["metadata"]["name"]: s["spec"] for s in of_kind(overlay, "Service")}
    assert set(services) == {"edge", "gateway", "realtime", "nats"}
    # The edge balances between replicas itself; NATS servers start by each other's names.
    for name in set(services) - {"edge"}:
        assert services[name]["clusterIP"] == "None", name
        assert services[name]["publishNotReadyAddresses"] is True, name


def test_nats_servers_start_together_by_their_own_names_and_keep_their_disks(
    overlay: list[Resource],
) -> None:
    [nats] = of_kind(overlay, "StatefulSet")
    spec = nats["spec"]
    # One after the other, the first would wait for ever for two that are not started.
    assert spec.get("podManagementPolicy") == "Parallel", "nats: `podManagementPolicy: Parallel`"
    assert spec["serviceName"] == "nats", "nats: `serviceName` names the servers"
    [container] = spec["template"]["spec"]["containers"]
    [_, file] = container["args"]
    wanted = f"/etc/nats/{'cluster' if spec['replicas'] > 1 else 'one'}.conf"
    assert file == wanted, f"nats: {spec['replicas']} replicas need {wanted}"
    assert container["lifecycle"]["preStop"]["exec"]["command"][1:] == ["--signal", "ldm=1"]
    values = {e["name"]: e.get("value") for e in container["env"]}
    assert values["NATS_SERVER_NAME"] is None  # the pod's
    named = [e["valueFrom"] for e in container["env"] if "valueFrom" in e]
    assert named == [{"fieldRef": {"fieldPath": "metadata.name"}}]
    routes = re.findall(r"@(nats-\d)\.nats:6222", str(values["NATS_ROUTES"]))
    assert routes == ["nats-0", "nats-1", "nats-2"], (
        "nats: NATS_ROUTES has port 6222 of each server"
    )
    for listens, port in (("HOST", ""), ("MONITORING", ":8222"), ("CLUSTER_LISTEN", ":6222")):
        assert values[f"NATS_{listens}"] == f"0.0.0.0{port}"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"client": 4222, "cluster": 6222, "monitoring": 8222}
    assert values["NATS_PORT"] == "4222"
    # Every variable of the configuration is set, and no other.
    text = "".join(path.read_text() for path in (ROOT / "deploy/nats").glob("*.conf"))
    read = set(re.findall(r"\$(NATS_\w+)", text)) - {"NATS_CERT_FILE", "NATS_KEY_FILE"}
    assert {*values} == {v for v in read if not v.endswith("_PASSWORD")}
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    [claim] = spec["volumeClaimTemplates"]
    assert mounts[claim["metadata"]["name"]] == values["NATS_STORE"]
    # max_file_store of nats.conf, twice: a stream is copied before it is replaced.
    assert claim["spec"]["resources"]["requests"]["storage"] == "8Gi"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_every_probe_reads_the_path_that_answers_it(overlay: list[Resource]) -> None:
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        name = workload["metadata"]["name"]
        [container] = workload["spec"]["template"]["spec"]["containers"]
        probes = {key: container[key] for key in container if key.endswith("Probe")}
        asked = {key: p["httpGet"]["path"] for key, p in probes.items() if "httpGet" in p}
        assert asked == PATHS[name], f"{name}: its probes ask {asked}; it answers {PATHS[name]}"
        if "startupProbe" in probes:
            assert seconds(probes["startupProbe"]) >= MIN_START_S, (
                f"{name}: migrations need a startupProbe of {MIN_START_S} s or more"
            )
        assert MIN_HANG_S <= seconds(probes["livenessProbe"]) <= MAX_HANG_S, (
            f"{name}: its livenessProbe restarts it after {seconds(probes['livenessProbe'])} s; "
            f"use {MIN_HANG_S} to {MAX_HANG_S}"
        )
        assert probes["readinessProbe"]["periodSeconds"] <= 5, (
            f"{name}: ask its readinessProbe every 5 s or more often"
        )


def test_each_container_runs_its_own_program_with_what_it_mounts(overlay: list[Resource]) -> None:
    for name, pod in pods(overlay):
        service = name.partition("-")[0]
        [container] = pod["containers"]
        if service not in ("edge", "nats"):
            module = "benchmarker.worker" if service == "worker" else service
            command = ["python", "-m", module]
            assert container["command"] == command, f"{name}: its command is {command}"
            image = f"worker-{'cuda' if 'gpu' in name else 'cpu'}" if "-" in name else "services"
            assert container["image"].startswith(f"lilypad/{image}:"), name
            writable = {m["mountPath"] for m in container["volumeMounts"]}
            assert writable == ({"/tmp", "/models"} if service == "worker" else {"/tmp"}), name
        claims = {"data"} if service == "nats" else set()
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {m["name"] for c in containers(pod) for m in c["volumeMounts"]}
        assert mounted == volumes | claims, f"{name}: mount each of its volumes, and no others"
        for volume in pod.get("volumes", []):
            kinds = {*volume} - {"name"}
            assert kinds <= {"emptyDir", "configMap", "secret"}, f"{name}: no volume of {kinds}"
            # What a worker downloads must not fill the node's disk.
            bounded = "sizeLimit" in volume.get("emptyDir", {})
            assert bounded is (service == "worker"), name
        assert pod["securityContext"]["runAsUser"] == 1000, name
        assert pod["securityContext"].get("fsGroup") == (
            1000 if service in ("nats", "worker") else None
        )


def test_priorities_rank_servers_above_services_above_workers(overlay: list[Resource]) -> None:
    ranks = {c["metadata"]["name"]: c for c in of_kind(overlay, "PriorityClass")}
    values = [ranks[f"lilypad-{kind}"]["value"] for kind in ("servers", "services", "workers")]
    assert values == sorted(values, reverse=True)
    assert len({*values}) == 3
    assert ranks["lilypad-workers"]["preemptionPolicy"] == "Never"
    for name, pod in pods(overlay):
        kind = {"edge": "servers", "nats": "servers", "worker": "workers"}
        rank = kind.get(name.partition("-")[0], "services")
        given = pod.get("priorityClassName")
        assert given == f"lilypad-{rank}", f"{name}: set `priorityClassName: lilypad-{rank}`"


def test_the_namespace_admits_restricted_pods_alone(overlay: list[Resource]) -> None:
    [namespace] = of_kind(overlay, "Namespace")
    labels = namespace["metadata"]["labels"]
    for mode in ("enforce", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
    for resource in overlay:
        if resource["kind"] not in ("Namespace", "PriorityClass"):
            own, wanted = resource["metadata"].get("namespace"), namespace["metadata"]["name"]
            name = f"{resource['kind']} {resource['metadata']['name']}"
            assert own == wanted, f"{name}: its namespace is {own}, and the Namespace is {wanted}"


def test_autoscalers_keep_two_replicas_and_remove_them_slowly(overlay: list[Resource]) -> None:
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler"):
        name, spec = scaler["metadata"]["name"], scaler["spec"]
        assert spec["scaleTargetRef"] == {
            "apiVersion": "apps/v1", "kind": "Deployment", "name": name,
        }  # fmt: skip
        assert spec["minReplicas"] == 2, f"{name}: two replicas survive the loss of a node"
        assert spec["maxReplicas"] > 2, f"{name}: `maxReplicas` is above `minReplicas`"
        [metric] = spec["metrics"]
        target = metric["resource"]["target"]
        assert (metric["resource"]["name"], target["type"]) == ("cpu", "Utilization")
        # docs/scaling.md plans with this share.
        assert target["averageUtilization"] == 70
        down = spec["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_workers_start_for_their_own_class_of_jobs_and_end_after_one(
    overlay: list[Resource],
) -> None:
    [settings] = [m["data"] for m in of_kind(overlay, "ConfigMap") if "MAX_RUN_S" in m["data"]]
    assert settings["MAX_JOBS"] == "1"
    jobs = of_kind(overlay, "ScaledJob")
    served = {job["metadata"]["name"].removeprefix("worker-"): job["spec"] for job in jobs}
    [queued] = [m["data"] for m in of_kind(overlay, "ConfigMap") if "WORKER_CLASSES" in m["data"]]
    classes = {*queued["WORKER_CLASSES"].split(",")}
    assert {*served} == classes, f"WORKER_CLASSES are those of the ScaledJobs, {sorted(served)}"
    assert classes <= {*CLASSES}
    for worker_class, spec in served.items():
        [trigger] = spec["triggers"]
        asked = trigger["metadata"]
        [namespace] = of_kind(overlay, "Namespace")
        endpoint = f"nats.{namespace['metadata']['name']}.svc.cluster.local:8222"
        assert asked["natsServerMonitoringEndpoint"] == endpoint, (
            f"worker-{worker_class}: KEDA finds NATS at {endpoint} alone"
        )
        assert asked["consumer"] == consumer_name(MEASURE, worker_class)
        assert asked["activationLagThreshold"] == "0"
        assert spec["minReplicaCount"] == 0
        assert spec["pollingInterval"] <= 30
        assert {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= {*spec}
        target = spec["jobTargetRef"]
        assert target["ttlSecondsAfterFinished"] >= 60
        # Evicted from its node, it is no failure of the job.
        [rule] = target["podFailurePolicy"]["rules"]
        assert (rule["action"], rule["onPodConditions"][0]["type"]) == (
            "Ignore",
            "DisruptionTarget",
        )
        [container] = target["template"]["spec"]["containers"]
        assert {"name": "WORKER_TAKES", "value": worker_class} in container["env"]
        wanted, bound = (container["resources"][key] for key in ("requests", "limits"))
        # Another pod on the node must not take what is measured; a single node has to share.
        assert (wanted == bound) is ("gpu" in served)


def test_a_gpu_worker_has_a_whole_gpu_and_time_for_the_longest_run(
    production: list[Resource],
) -> None:
    [settings] = [m["data"] for m in of_kind(production, "ConfigMap") if "MAX_RUN_S" in m["data"]]
    for job in of_kind(production, "ScaledJob"):
        spec = job["spec"]["jobTargetRef"]
        assert spec["activeDeadlineSeconds"] >= 2 * int(settings["MAX_RUN_S"])
        assert spec["backoffLimit"] == 0  # the bus repeats a job
        assert spec["template"]["spec"]["restartPolicy"] == "Never"
        [container] = spec["template"]["spec"]["containers"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert settings["HF_HOME"] in writable, "worker.env: HF_HOME is a volume of the workers"
    [gpu] = [pod for name, pod in pods(production) if name == "worker-gpu"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    [term] = gpu["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    # Labels of NVIDIA's GPU feature discovery.
    assert {e["key"]: (e["operator"], e["values"]) for e in term["matchExpressions"]} == {
        "nvidia.com/gpu.present": ("In", ["true"]),
        "nvidia.com/gpu.sharing-strategy": ("NotIn", ["time-slicing", "mps"]),
    }
    # Machines with GPUs repel all other pods.
    assert gpu["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


def with_component(name: str) -> list[Resource]:
    return build(K8S / "tests" / "with" / name)


def templates(resources: list[Resource]) -> dict[str, Any]:
    return {
        job["metadata"]["name"]: job["spec"]["jobTargetRef"]["template"]
        for job in of_kind(resources, "ScaledJob")
    }


def test_mig_replaces_the_gpu_of_gpu_workers_by_one_slice() -> None:
    sliced, whole = templates(with_component("mig")), templates(build(K8S / "base"))
    for name, template in sliced.items():
        [container] = template["spec"]["containers"]
        [before] = whole[name]["spec"]["containers"]
        for key, resources in container["resources"].items():
            expected = dict(before["resources"][key])
            if expected.pop("nvidia.com/gpu", None):
                expected["nvidia.com/mig-3g.40gb"] = "1"
            assert resources == expected, name
        assert {**container, "resources": {}} == {**before, "resources": {}}


def test_kueue_queues_every_worker_and_nothing_else_changes() -> None:
    label, queue = "kueue.x-k8s.io/queue-name", "lilypad"
    queued, plain = with_component("kueue"), build(K8S / "base")
    for job in of_kind(queued, "ScaledJob"):
        assert job["metadata"]["labels"].pop(label) == queue
        assert job["spec"]["jobTargetRef"]["template"]["metadata"]["labels"].pop(label) == queue
    assert queued == plain


@pytest.mark.parametrize("timescale", [False, True])
def test_a_database_in_the_cluster_is_on_three_nodes_with_room_to_free_space(
    timescale: bool,
) -> None:
    resources = build(K8S / "overlays" / f"cloudnative-pg{'-timescale' if timescale else ''}")
    [cluster] = of_kind(resources, "Cluster")
    spec = cluster["spec"]
    assert cluster["metadata"]["name"] == "database"
    assert spec["affinity"] == {"podAntiAffinityType": "required", "topologyKey": HOSTNAME}
    assert spec["priorityClassName"] == "lilypad-servers"
    assert spec["postgresql"]["synchronous"] == {
        "method": "any", "number": 1, "dataDurability": "required",
    }  # fmt: skip
    initdb = spec["bootstrap"]["initdb"]
    assert (initdb["encoding"], initdb["dataChecksums"]) == ("UTF8", True)
    assert (initdb["database"], initdb["owner"]) == ("lilypad", "lilypad")
    # The log of writes has a disk of its own: samples may fill the other one.
    assert {"storage", "walStorage"} <= {*spec}
    assert spec["resources"]["requests"]["memory"] == spec["resources"]["limits"]["memory"]
    parameters = spec["postgresql"]["parameters"]
    memory, buffers = spec["resources"]["limits"]["memory"], parameters["shared_buffers"]
    gibibytes = float(memory.removesuffix("Gi")), float(buffers.removesuffix("GB"))
    # PostgreSQL's manual: a quarter, and not above 40 %.
    assert gibibytes[1] <= 0.4 * gibibytes[0], f"shared_buffers of {buffers} in {memory}"
    assert parameters["jit"] == "off"
    # Some 14 connections of each replica of four services.
    assert int(parameters["max_connections"]) >= 200
    assert parameters["idle_in_transaction_session_timeout"] == "60s"
    image = "clevyr/cloudnativepg-timescale:" if timescale else "cloudnative-pg/postgresql:"
    assert spec["imageName"].startswith(f"ghcr.io/{image}1")
    if timescale:
        assert parameters["timescaledb.telemetry_level"] == "off"
        assert int(parameters["max_locks_per_transaction"]) >= 256
        assert initdb["postInitApplicationSQL"] == ["create extension if not exists timescaledb"]
