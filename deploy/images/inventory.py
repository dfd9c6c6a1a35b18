"""The bill of materials and runc settings of an unpacked image; runs none of its files.

    python deploy/images/inventory.py ROOT > image.cdx.json     # CycloneDX 1.6
    python deploy/images/inventory.py ROOT --run python -m gateway > config.json

With `--run` it prints the settings with which runc runs a command in it: no root, no rights, no
network, nothing that can be written but /tmp.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

OWN = "lilypad-"
LICENCE = "License :: OSI Approved :: "


def packages(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the Python and Debian packages as CycloneDX components."""
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


def bill(root: Path, name: str, programs: Iterable[str] = ()) -> dict[str, Any]:
    """Return the bill of materials; without a date, so that it is reproducible.

    `programs` are those that no package manager knows, as `envoy@1.40.0`.
    """
    single = [
        {
            "type": "application",
            "bom-ref": f"pkg:generic/{program}",
            "name": program.partition("@")[0],
            "version": program.partition("@")[2],
            "purl": f"pkg:generic/{program}",
        }
        for program in programs
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name}},
        "components": sorted([*packages(root), *single], key=lambda package: str(package["purl"])),
    }


def container(
    root: Path,
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    network: bool = False,
    writable: Mapping[str, str] | None = None,
    folders: Iterable[Path] = (),
    directory: str = "/",
) -> dict[str, Any]:
    """Return runc's settings, without rlimits, which CI containers may not set.

    Args:
        root: the unpacked image.
        command: what to run.
        environment: in addition to PATH.
        network: whether it has this machine's network, or none.
        writable: sizes of folders in memory that it may write, beside /tmp.
        folders: folders of this machine that it sees under the same names.
        directory: to run in.
    """
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    ]
    for path, size in {"/tmp": "64m", **(writable or {})}.items():  # noqa: S108
        options = [f"size={size}", "mode=1777", "nosuid", "nodev"]
        mount = {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}
        mounts.append(mount)
    for folder in folders:
        mount = {"destination": str(folder), "source": str(folder)}
        mount |= {"type": "bind", "options": ["rbind"]}
        mounts.append(mount)
    kinds = ["pid", "ipc", "uts", "mount", *([] if network else ["network"])]
    path = "PATH=/opt/lilypad/bin:/usr/local/bin:/usr/bin:/bin"
    variables = [f"{name}={value}" for name, value in (environment or {}).items() if name != "PATH"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": command,
            "env": [path, "PYTHONDONTWRITEBYTECODE=1", *variables],
            "cwd": directory,
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
    parser.add_argument(
        "--with", dest="programs", action="append", default=[], metavar="NAME@VERSION"
    )
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="print runc's settings instead")
    arguments = parser.parse_args()
    document = (
        container(arguments.root, arguments.run)
        if arguments.run
        else bill(arguments.root, arguments.name, arguments.programs)
    )
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
