"""Free ports on 127.0.0.1, and the reason why a port cannot be used."""

import errno
import os
import random
import socket
import threading
from contextlib import closing

# Below the range from which Linux and macOS take the ports of outgoing connections: a restarted
# server finds its port still free.
LOWEST, HIGHEST = 20_000, 32_000
SHARE = 200

HOST = "127.0.0.1"


def obstacle(port: int) -> int:
    """Return the `errno` of listening on the port; 0 if it is free."""
    with closing(socket.socket()) as probe:
        # Like servers: a connection that is still closing does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return 0


def free(port: int) -> bool:
    """Return whether the port is free."""
    return not obstacle(port)


def nearest(port: int) -> int:
    """Return the first free port after `port`, or else any free port."""
    return next((other for other in range(port + 1, 65_536) if free(other)), find(1)[0])


def reach_directly() -> None:
    """Exclude 127.0.0.1 from the proxies of this process and its children."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [*filter(None, os.environ.get(name, "").split(",")), HOST, "localhost"]
        os.environ[name] = ",".join(dict.fromkeys(hosts))


class Supply:
    """A supply of ports for servers to start; each port is returned once.

    It takes them from shares that no other process takes from meanwhile: the lock of a share is an
    abstract socket, which ends with the process. Without such sockets (macOS) all ports are one
    share.
    """

    def __init__(self) -> None:
        self._left: list[int] = []
        self._taking = threading.Lock()

    def take(self, count: int) -> list[int]:
        taken: list[int] = []
        with self._taking:
            while len(taken) < count:
                if not self._left:
                    self._left = self._next_share()
                port = self._left.pop()
                if free(port):
                    taken.append(port)
        return taken

    def _next_share(self) -> list[int]:
        for first in random.sample(range(LOWEST, HIGHEST, SHARE), (HIGHEST - LOWEST) // SHARE):
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0lilypad-ports-{first}")
            except OSError:
                lock.close()
                continue
            lock.detach()  # it stays bound until the process ends
            return random.sample(range(first, first + SHARE), SHARE)
        return random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST)


_supply = Supply()


def find(count: int) -> list[int]:
    """Return distinct free ports, reserved against other processes of this project."""
    return _supply.take(count)
