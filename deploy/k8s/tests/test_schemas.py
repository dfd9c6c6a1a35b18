"""The manifests, against the schemas of Kubernetes, KEDA and CloudNativePG, and their bounds."""

import copy
import json

import jsonschema
import kubernetes_validate
import pytest

from .conftest import K8S, Resource, build, containers, of_kind, pods

VERSION = "1.35"
MAX_WORKERS = "maxReplicaCount"
MAX_REPLICAS = 50
SCALED_JOB = json.loads((K8S / "tests" / "scaledjob.schema.json").read_text())
# The fields that are used, as the operator's own definition has them.
CLUSTER = json.loads((K8S / "tests" / "cluster.schema.json").read_text())


def check(resource: Resource) -> None:
    """Raise for an unknown field, a missing field or an invalid value."""
    if resource["kind"] == "ScaledJob":
        jsonschema.validate(resource, SCALED_JOB)
        resource = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": resource["metadata"],
            "spec": resource["spec"]["jobTargetRef"],
        }
    if resource["kind"] == "Cluster":
        jsonschema.validate(resource, CLUSTER)
        return
    kubernetes_validate.validate(resource, VERSION, strict=True)


def test_every_manifest_is_valid(overlay: list[Resource]) -> None:
    for resource in overlay:
        check(resource)


@pytest.mark.parametrize("component", ["mig", "kueue", "traces", "tls"])
def test_every_component_builds_on_the_base(
    component: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = K8S / "tests" / "with" / component
    resources = build(folder)
    for resource in resources:
        check(resource)
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


def test_a_misspelt_field_is_refused_in_a_custom_resource_too(production: list[Resource]) -> None:
    scaled = copy.deepcopy(of_kind(production, "ScaledJob")[0])
    scaled["spec"]["maxReplicaCout"] = scaled["spec"].pop("maxReplicaCount")
    with pytest.raises(jsonschema.ValidationError, match="maxReplicaCout"):
        check(scaled)
    [cluster] = copy.deepcopy(of_kind(build(K8S / "overlays" / "cloudnative-pg"), "Cluster"))
    cluster["spec"]["postgresql"]["synchronos"] = cluster["spec"]["postgresql"].pop("synchronous")
    with pytest.raises(jsonschema.ValidationError, match="synchronos"):
        check(cluster)
    job = copy.deepcopy(of_kind(production, "ScaledJob")[0])
    job["spec"]["jobTargetRef"]["backofLimit"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check(job)
    deployment = copy.deepcopy(of_kind(production, "Deployment")[0])
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check(deployment)


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
        assert read == [name.partition("-")[0]], name
