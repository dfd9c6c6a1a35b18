"""List the contents of an image from its unpacked files, without running any of them.

    python deploy/images/inventory.py ROOT > image.cdx.json     # CycloneDX 1.6
    python deploy/images/inventory.py ROOT --run python -m gateway > config.json

With `--run` it prints the settings with which runc runs a command in it: no root, no rights, no
network, nothing that can be written but /tmp.
"""

import argparse
import json
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

OWN = "lilypad-"
LICENCE = "License :: OSI Approved :: "


def packages(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the packages of Python and of Debian, as CycloneDX has them."""
    folders = [str(folder) for folder in root.glob("opt/*/lib/python3*/site-packages")]
    for package in distributions(path=folders):
        # Our own packages are in no registry.
        name, version = package.metadata["Name"].lower().replace("_", "-"), package.version
        purl = f"pkg:pypi/{quote(name)}@{quote(version)}"
        yield {
            "type": "application" if name.startswith(OWN) else "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            **_licences(package),
        }
    status = root / "var" / "lib" / "dpkg" / "status"
    for block in status.read_text().split("\n\n") if status.exists() else ():
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.+)$", block, re.MULTILINE))
        if fields:
            purl = f"pkg:deb/debian/{quote(fields['Package'])}@{quote(fields['Version'])}"
            purl += f"?arch={fields['Architecture']}"
            name, version = fields["Package"], fields["Version"]
            entry = {"type": "library", "bom-ref": purl, "name": name}
            yield {**entry, "version": version, "purl": purl}


def _licences(package: Distribution) -> dict[str, Any]:
    expression = package.metadata.get("License-Expression")
    if expression:
        return {"licenses": [{"expression": expression}]}
    classifiers = package.metadata.get_all("Classifier") or []
    names = [
        classifier.removeprefix(LICENCE)
        for classifier in classifiers
        if classifier.startswith(LICENCE)
    ]
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def bill(root: Path, name: str) -> dict[str, Any]:
    """Return the bill of materials, without a date: the same image has the same one."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name}},
        "components": sorted(packages(root), key=lambda package: str(package["purl"])),
    }


def container(root: Path, command: list[str]) -> dict[str, Any]:
    """Return runc's settings; without rlimits, which need a right that containers of CI lack."""
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64m"]},  # noqa: S108
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    ]
    kinds = ("pid", "network", "ipc", "uts", "mount")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": command,
            "env": ["PATH=/opt/lilypad/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="say what an unpacked image holds")
    parser.add_argument("root", type=Path)
    parser.add_argument("--name", default="lilypad/services")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="print runc's settings instead")
    arguments = parser.parse_args()
    document = (
        container(arguments.root, arguments.run)
        if arguments.run
        else bill(arguments.root, arguments.name)
    )
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
