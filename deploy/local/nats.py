"""NATS from a wheel: users, process, and a count of the services that answer."""

import asyncio
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from local.credentials import Credentials
from local.ports import HOST
from local.process import Program

CONFIGURATION = Path(__file__).parents[1] / "nats" / "nats.conf"
# The users that have permissions in nats.conf.
USERS = (
    "gateway", "generator", "benchmarker", "worker", "metrics", "realtime", "webhooks",
    "supervisor",
)  # fmt: skip


class Nats:
    """The NATS server of a stack.

    Args:
        data: directory of the streams.
        port: port to listen on, at 127.0.0.1.
        credentials: passwords of all users.
    """

    def __init__(self, data: Path, port: int, credentials: Credentials) -> None:
        self.data = data
        self.port = port
        self.credentials = credentials

    def url(self, user: str) -> str:
        return f"nats://{user}:{self.credentials.password(f'nats/{user}')}@{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        """Return the variables that nats.conf refers to as $NAME."""
        passwords = {
            f"NATS_{user.upper()}_PASSWORD": self.credentials.password(f"nats/{user}")
            for user in USERS
        }
        # Quoted: a path may contain characters with a meaning in NATS' configuration language.
        store = str(self.data).replace("\\", "\\\\").replace('"', '\\"')
        return {
            "NATS_SERVER_NAME": "lilypad",
            "NATS_HOST": HOST,
            "NATS_PORT": str(self.port),
            "NATS_STORE": f'"{store}"',
            **passwords,
        }

    def program(self) -> Program:
        return Program(
            name="nats",
            command=[server(), "--config", str(CONFIGURATION)],
            environment=self.environment(),
            ready=self._ready,
        )

    def answers(self, service: str) -> int:
        """Count the instances of a service that answer a ping (ADR-32) within 0.1 s."""
        return asyncio.run(self._count(service))

    def _ready(self) -> bool:
        return asyncio.run(self._count("nobody")) == 0

    async def _count(self, service: str) -> int:
        """Return the number of answers; -1 if the server is unreachable."""
        received = 0

        async def hear(message: Msg) -> None:
            nonlocal received
            # The server's own "no responders" is empty.
            received += bool(message.data)

        async def ignore(_: Exception) -> None:
            """Suppress nats-py's log of failed connections: here they mean not ready yet."""

        client = Client()
        try:
            await client.connect(
                self.url("supervisor"),
                allow_reconnect=False,
                connect_timeout=1,
                # nats-py would still retry a refused connection, by default after 2 s.
                reconnect_time_wait=0.02,  # type: ignore[arg-type]
                inbox_prefix="_INBOX.supervisor",
                error_cb=ignore,
            )
            inbox = client.new_inbox()
            await client.subscribe(inbox, cb=hear)
            await client.publish(f"$SRV.PING.{service}", reply=inbox)
            await client.flush(timeout=1)
            await asyncio.sleep(0.1)
        except (nats.errors.Error, OSError, TimeoutError):
            return -1
        finally:
            await client.close()  # also after a failure, when nats-py leaves its socket open
        return received


def server() -> str:
    """Return the path of `nats-server`, which the wheel installs next to this interpreter."""
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if not program:
        raise FileNotFoundError("nats-server is not installed; run make setup")
    return program
