import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .validation import find_fault

ROOT = Path(__file__).parents[3]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("local", "production", "cloudnative-pg", "cloudnative-pg-timescale")

Resource = dict[str, Any]


def build(folder: Path) -> list[Resource]:
    """Return the manifests that `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.fail(
            "kubectl is missing: https://kubernetes.io/docs/tasks/tools says how to install it"
        )
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Resource]:
    return valid(build(K8S / "overlays" / request.param))


@pytest.fixture(scope="session")
def production() -> list[Resource]:
    return valid(build(K8S / "overlays" / "production"))


def valid(resources: list[Resource]) -> list[Resource]:
    """Fail with what is wrong, rather than with the first field that a rule does not find."""
    faults = [fault for resource in resources if (fault := find_fault(resource))]
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
    return resources


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def pods(resources: list[Resource]) -> list[tuple[str, Resource]]:
    """Return (workload name, pod spec) pairs."""
    workloads = []
    for resource in of_kind(resources, "Deployment", "StatefulSet"):
        workloads.append((resource["metadata"]["name"], resource["spec"]["template"]["spec"]))
    for resource in of_kind(resources, "ScaledJob"):
        template = resource["spec"]["jobTargetRef"]["template"]
        workloads.append((resource["metadata"]["name"], template["spec"]))
    return workloads


def containers(pod: Resource) -> list[Resource]:
    return [*pod.get("initContainers", []), *pod["containers"]]
