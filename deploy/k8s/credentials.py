"""Print the secrets of a new cluster: passwords of the bus and the database, and an encryption key.

    python3 deploy/k8s/credentials.py DATABASE_HOST > secrets.yaml    # keep it safe
    kubectl apply -f secrets.yaml

With `--rotate secrets.yaml` it prints new passwords in place of those in that file. The encryption
keys in it stay, behind a new one, because they decrypt what the database holds.

The database's roles and schemas are printed to standard error, as SQL for its administrator.
"""

import argparse
import json
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from secrets import token_bytes, token_hex

NAMESPACE = "lilypad"
USERS = ("gateway", "generator", "benchmarker", "worker", "metrics", "realtime", "webhooks")
# Services that encrypt accounts' secrets in the database, with a Fernet key.
ENCRYPTING = ("gateway", "webhooks")
DATABASE = ("gateway", "benchmarker", "metrics", "webhooks")


class MissingKeys(Exception):
    """Missing encryption keys in the secrets to replace; the message names the services."""


def password() -> str:
    # The letter in front: NATS would read digits in its configuration as a number.
    return f"p{token_hex(24)}"


def secret(name: str, data: dict[str, str]) -> dict[str, object]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def make(
    host: str, database: str, former_keys: Mapping[str, str] | None = None
) -> tuple[list[dict[str, object]], list[str]]:
    """Return the secrets, and the SQL that creates the matching roles and schemas.

    `former_keys` are the encryption keys of each service so far, which stay behind a new one.

    Raises:
        MissingKeys: `former_keys` lack a service.
    """
    if former_keys is not None:
        require_keys(former_keys)
    bus = {user: password() for user in (*USERS, "supervisor", "route")}
    server = {f"NATS_{user.upper()}_PASSWORD": secret_text for user, secret_text in bus.items()}
    secrets_made, statements = [secret("nats-users", server)], []
    for user in USERS:
        data = {"NATS_URL": f"nats://{user}:{bus[user]}@nats:4222"}
        if user in DATABASE:
            secret_text = password()
            data["DATABASE_URL"] = f"postgresql://{user}:{secret_text}@{host}/{database}"
            statements.append(f"create role {user} login password '{secret_text}';")
            statements.append(f"create schema {user} authorization {user};")
        if user in ENCRYPTING:
            former = (former_keys or {}).get(user)
            key = urlsafe_b64encode(token_bytes(32)).decode()
            data["ENCRYPTION_KEYS"] = f"{key},{former}" if former else key
        secrets_made.append(secret(user, data))
    return secrets_made, statements


def require_keys(keys: Mapping[str, str]) -> None:
    """Raise MissingKeys unless each service that encrypts has keys."""
    if missing := [service for service in ENCRYPTING if not keys.get(service)]:
        raise MissingKeys(
            f"ENCRYPTION_KEYS of {' and '.join(missing)} missing: with only new ones, what is"
            " stored could not be decrypted; put the former ones back"
        )


def encryption_keys(text: str) -> dict[str, str]:
    """Parse secrets that `main` printed; return the encryption keys by service."""
    printed = [json.loads(each) for each in text.split("\n---\n")]
    return {
        each["metadata"]["name"]: each["stringData"]["ENCRYPTION_KEYS"]
        for each in printed
        if "ENCRYPTION_KEYS" in each["stringData"]
    }


def changed(statements: list[str]) -> list[str]:
    """Turn statements that create roles into statements that change their passwords."""
    roles = [each for each in statements if each.startswith("create role ")]
    return [each.replace("create", "alter", 1) for each in roles]


def main() -> None:
    parser = argparse.ArgumentParser(description="print the secrets of a new cluster")
    parser.add_argument("host", help="host, or host:port, of the database")
    parser.add_argument("--database", default="lilypad", help="its name")
    parser.add_argument("--rotate", type=Path, metavar="FILE", help="the secrets to replace")
    arguments = parser.parse_args()
    former = encryption_keys(arguments.rotate.read_text()) if arguments.rotate else None
    try:
        secrets, statements = make(arguments.host, arguments.database, former)
    except MissingKeys as error:
        sys.exit(f"{arguments.rotate}: {error}")
    # For a database that is created in the cluster, with these roles.
    secrets.append(secret("database-roles", {"roles.sql": "\n".join([*statements, ""])}))
    if arguments.rotate:
        statements = changed(statements)
    print("\n---\n".join(json.dumps(each, indent=2) for each in secrets))
    print("\n".join(statements), file=sys.stderr)


if __name__ == "__main__":
    main()
