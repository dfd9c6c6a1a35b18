"""Generate the files of Docker Compose: passwords, database roles, the edge's configuration.

    python3 deploy/compose/prepare.py

It writes `made/` beside this file, once: passwords that are there stay, because the database keeps
them too. Remove the folder together with the volumes.

    python3 deploy/compose/prepare.py --rotate

makes new passwords, and `made/rotate.sql` for the database that still has the old ones. If it is
interrupted, repeat it: the encryption keys are kept whenever that happens.
"""

import os
import string
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
DEPLOY = HERE.parent
sys.path.insert(0, str(DEPLOY))

from k8s import credentials  # noqa: E402  (found beside this folder)

# As in the cluster, except that callers arrive without a proxy in front.
EDGE = {"TRUSTED_HOPS": "0"}


def edge() -> str:
    """Return Envoy's configuration, with the replicas' addresses from Docker's DNS."""
    lines = (DEPLOY / "k8s/base/settings/edge.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines) | EDGE
    template = string.Template((DEPLOY / "envoy/envoy.yaml").read_text())
    return template.substitute(settings)


def files(former_keys: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the content of each file of `made/`."""
    secrets, statements = credentials.make("database:5432", "lilypad", former_keys)
    contents = {}
    for secret in secrets:
        metadata, data = secret["metadata"], secret["stringData"]
        assert isinstance(metadata, dict)
        assert isinstance(data, dict)
        name = "nats" if metadata["name"] == "nats-users" else metadata["name"]
        lines = [f"{variable}={value}" for variable, value in data.items()]
        contents[f"{name}.env"] = "\n".join([*lines, ""])
    contents["database.env"] = f"POSTGRES_PASSWORD={credentials.password()}\n"
    contents["grafana.env"] = f"GF_SECURITY_ADMIN_PASSWORD={credentials.password()}\n"
    contents["rotate.sql"] = "\n".join([*credentials.changed(statements), ""])
    contents["roles.sql"] = "\n".join([*statements, ""])
    contents["envoy.yaml"] = edge()
    return contents


class Refused(Exception):
    """A folder with missing or unexpected files; the message says what to do."""


def write(folder: Path) -> None:
    """Write all files, or only `envoy.yaml` if the others exist; only the owner can read them."""
    contents = files()
    del contents["rotate.sql"]
    missing = [name for name in contents if not (folder / name).exists()]
    if len(missing) == len(contents):
        folder.mkdir(mode=0o700, exist_ok=True)
        _replace(folder, contents)
    elif lost := [name for name in missing if name != "envoy.yaml"]:
        raise Refused(
            f"{folder} lacks {', '.join(lost)}: put them back from a backup; or, before the first"
            " start, remove the folder"
        )
    else:
        _replace(folder, {"envoy.yaml": contents["envoy.yaml"]})


def rotate(folder: Path) -> None:
    """Replace passwords, and put new encryption keys before the former keys."""
    if not folder.is_dir():
        raise Refused(f"there is no {folder}, and so nothing to rotate; leave out --rotate")
    former = {
        file.stem: value
        for file in folder.glob("*.env")
        for name, _, value in (line.partition("=") for line in file.read_text().splitlines())
        if name == "ENCRYPTION_KEYS"
    }
    try:
        contents = files(former)
    except credentials.MissingKeys as error:
        raise Refused(f"{folder}: {error}") from None
    # The administrators' passwords are in the volumes of the database and of Grafana.
    for kept in ("database.env", "grafana.env"):
        del contents[kept]
    _replace(folder, contents)


def _replace(folder: Path, contents: Mapping[str, str]) -> None:
    """Replace files atomically: write temporary files, then rename them once all are on disk."""
    for name, text in contents.items():
        new = folder / f"{name}.new"
        with new.open("w") as file:
            # The folder is closed to other users, but containers that mount a file have others.
            new.chmod(0o600 if name.endswith(".env") else 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    for name in contents:
        (folder / f"{name}.new").rename(folder / name)


if __name__ == "__main__":
    try:
        (rotate if sys.argv[1:] == ["--rotate"] else write)(HERE / "made")
    except (Refused, OSError) as error:
        sys.exit(str(error))
