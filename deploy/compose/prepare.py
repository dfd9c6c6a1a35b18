"""Write the containers' files for one host: passwords, roles, the edge's configuration.

    python deploy/compose/prepare.py

It writes `made/` beside this file, once: passwords that are there stay, because the database keeps
them too. Remove the folder together with the volumes.

    python deploy/compose/prepare.py --rotate

makes new passwords, and `made/rotate.sql` for the database that still has the old ones.
"""

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
    """Return Envoy's configuration for the replicas that Docker's DNS knows."""
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


def write(folder: Path) -> None:
    """Write the missing files; only the owner can enter the folder."""
    if (folder / "envoy.yaml").exists():
        (folder / "envoy.yaml").write_text(edge())
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)


def rotate(folder: Path) -> None:
    """Replace the passwords of the bus and of the database's roles; keep the encryption keys."""
    former = {
        file.stem: value
        for file in folder.glob("*.env")
        for name, _, value in (line.partition("=") for line in file.read_text().splitlines())
        if name == "ENCRYPTION_KEYS"
    }
    # The administrators' passwords are in the volumes of the database and of Grafana.
    kept = ("database.env", "grafana.env")
    for name, text in files(former).items():
        if name not in kept:
            (folder / name).write_text(text)


if __name__ == "__main__":
    if sys.argv[1:] == ["--rotate"]:
        rotate(HERE / "made")
    else:
        write(HERE / "made")
