"""The manifests, against the schemas of Kubernetes, KEDA and CloudNativePG, and their bounds."""

import copy

import pytest

from .conftest import K8S, OVERLAYS, Resource, build, containers, of_kind, pods
from .validation import find_fault

MAX_WORKERS = "maxReplicaCount"
MAX_REPLICAS = 50


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_manifest_is_valid(folder: str) -> None:
    resources = build(K8S / "overlays" / folder)
    assert [fault for r in resources if (fault := find_fault(r))] == []


@pytest.mark.parametrize("component", ["mig", "kueue", "traces", "tls"])
def test_every_component_builds_on_the_base(
    component: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = K8S / "tests" / "with" / component
    resources = build(folder)
    assert [fault for r in resources if (fault := find_fault(r))] == []
    gpu = next(
        resource
        for resource in of_kind(resources, "ScaledJob")
        if resource["metadata"]["name"] == "worker-gpu"
    )
    template = gpu["spec"]["jobTargetRef"]["template"]
    if component == "mig":
        [*names] = template["spec"]["containers"][0]["resources"]["limits"]
        assert [name for name in names if "nvidia" in name] == ["nvidia.com/mig-3g.40gb"]
    elif component == "traces":
        traced = [m for m in of_kind(resources, "ConfigMap") if "OTEL" in str(m["data"])]
        assert len(traced) == 7
        # Merged, not replaced; workers declare no streams.
        assert [m["data"].get("STREAM_REPLICAS", "") for m in traced].count("3") == 6
    elif component == "kueue":
        assert template["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lilypad"


def test_a_misspelt_field_is_refused_with_its_place_and_the_right_name(
    production: list[Resource],
) -> None:
    scaled = copy.deepcopy(of_kind(production, "ScaledJob")[0])
    name = scaled["metadata"]["name"]
    scaled["spec"]["maxReplicaCout"] = scaled["spec"].pop("maxReplicaCount")
    assert find_fault(scaled) == (
        f"ScaledJob {name}, spec: unknown field `maxReplicaCout`; did you mean `maxReplicaCount`?"
    )
    [cluster] = copy.deepcopy(of_kind(build(K8S / "overlays" / "cloudnative-pg"), "Cluster"))
    cluster["spec"]["postgresql"]["synchronos"] = cluster["spec"]["postgresql"].pop("synchronous")
    assert "did you mean `synchronous`?" in str(find_fault(cluster))
    job = copy.deepcopy(of_kind(production, "ScaledJob")[0])
    job["spec"]["jobTargetRef"]["backofLimit"] = 1
    assert "did you mean `backoffLimit`?" in str(find_fault(job))
    deployment = copy.deepcopy(of_kind(production, "Deployment")[0])
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"][0]["readinesProbe"] = pod["containers"][0].pop("readinessProbe")
    assert find_fault(deployment) == (
        f"Deployment {deployment['metadata']['name']}, spec.template.spec.containers[0]: "
        "unknown field `readinesProbe`; did you mean `readinessProbe`?"
    )
    del pod["containers"]
    assert "'containers' is a required property" in str(find_fault(deployment))
    deployment["apiVersion"] = "apps/v1beta1"
    assert "correct `kind` or `apiVersion`" in str(find_fault(deployment))


def test_every_autoscaler_ends_at_a_bound_that_a_cluster_can_pay_for(
    overlay: list[Resource],
) -> None:
    bounds = {
        scaler["metadata"]["name"]: scaler["spec"].get(field)
        for kind, field in (("HorizontalPodAutoscaler", "maxReplicas"), ("ScaledJob", MAX_WORKERS))
        for scaler in of_kind(overlay, kind)
    }
    # KEDA's own default is 100 workers.
    assert {name for name, most in bounds.items() if not 1 <= (most or 0) <= MAX_REPLICAS} == set()
    assert {"gateway", "generator", "realtime", "worker-cpu"} <= {*bounds}


def test_each_service_reads_its_own_secret_alone(overlay: list[Resource]) -> None:
    for name, pod in pods(overlay):
        if name in ("nats", "edge"):
            continue
        read = [
            source["secretRef"]["name"]
            for container in containers(pod)
            for source in container.get("envFrom", [])
            if "secretRef" in source
        ]
        own = name.partition("-")[0]
        assert read == [own], f"{name}: it reads {read}; its secret is `{own}`"
