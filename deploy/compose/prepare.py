"""Write the files that the containers of one host need: passwords, roles, the edge's configuration.

    python deploy/compose/prepare.py

It writes `made/` beside this file, once: passwords that are there stay, because the database keeps
them too. Remove the folder together with the volumes.
"""

import string
import sys
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


def files() -> dict[str, str]:
    """Return the content of each file of `made/`."""
    secrets, statements = credentials.make("database:5432", "lilypad")
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


if __name__ == "__main__":
    write(HERE / "made")
