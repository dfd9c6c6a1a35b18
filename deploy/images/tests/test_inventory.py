"""The bill of materials of an image, and its confinement by runc."""

import sysconfig
from pathlib import Path

import pytest
from images import inventory

STATUS = """Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b7

Package: libc6
Architecture: amd64
Version: 2.36-9
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image with this environment's Python packages and two Debian packages."""
    site = tmp_path / "opt" / "lilypad" / "lib" / "python3.11" / "site-packages"
    site.parent.mkdir(parents=True)
    site.symlink_to(sysconfig.get_paths()["purelib"])
    status = tmp_path / "var" / "lib" / "dpkg" / "status"
    status.parent.mkdir(parents=True)
    status.write_text(STATUS)
    return tmp_path


def test_the_bill_of_materials_names_every_package_and_is_reproducible(
    root: Path,
) -> None:
    bill = inventory.bill(root, "lilypad/services")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    by_name = {component["name"]: component for component in bill["components"]}
    assert by_name["bash"]["purl"] == "pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64"
    assert by_name["libc6"]["version"] == "2.36-9"
    assert by_name["lilypad-common"]["type"] == "application"
    assert by_name["fastapi"]["purl"].startswith("pkg:pypi/fastapi@")
    assert by_name["fastapi"]["licenses"]
    assert inventory.bill(root, "lilypad/services") == bill
    also = inventory.bill(root, "lilypad/edge", ["envoy@1.40.0"])
    added = [each for each in also["components"] if each not in bill["components"]]
    assert [(each["purl"], each["version"]) for each in added] == [
        ("pkg:generic/envoy@1.40.0", "1.40.0")
    ]


def test_runc_gives_a_service_no_capabilities_no_network_and_no_writable_path(root: Path) -> None:
    settings = inventory.container(root, ["python", "-m", "gateway"])
    process, linux = settings["process"], settings["linux"]
    assert settings["root"] == {"path": str(root), "readonly": True}
    assert process["user"]["uid"] != 0
    assert (process["noNewPrivileges"], process["capabilities"]) == (True, {})
    assert {"type": "network"} in linux["namespaces"]


def test_a_container_of_the_stack_writes_only_to_its_own_folders(
    root: Path, tmp_path: Path
) -> None:
    settings = inventory.container(
        root, ["nats-server"], {"PATH": "/evil", "A": "1"}, network=True, folders=[tmp_path]
    )
    process, linux = settings["process"], settings["linux"]
    assert settings["root"]["readonly"] is True
    assert process["user"]["uid"] != 0
    assert (process["noNewPrivileges"], process["capabilities"]) == (True, {})
    assert {"type": "network"} not in linux["namespaces"]
    assert "A=1" in process["env"]
    assert "PATH=/evil" not in process["env"]
    bound = [mount["source"] for mount in settings["mounts"] if mount.get("type") == "bind"]
    assert bound == [str(tmp_path)]
