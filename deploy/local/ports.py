"""Ports on 127.0.0.1: which one is free, and why one is not."""

import errno
import os
import random
import socket
from contextlib import closing

# Below the range from which Linux and macOS take the ports of outgoing
# connections: a server that is started again finds its port still free.
LOWEST, HIGHEST = 20_000, 32_000

HOST = "127.0.0.1"


def obstacle(port: int) -> int:
    """Why nobody can listen there, as `errno` has it; 0: somebody can."""
    with closing(socket.socket()) as probe:
        # As servers do: a connection that is still winding down is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return 0


def free(port: int) -> bool:
    """Whether nobody listens there."""
    return not obstacle(port)


def nearest(port: int) -> int:
    """The first free one after it, or any."""
    return next((other for other in range(port + 1, 65_536) if free(other)), find(1)[0])


def reach_directly() -> None:
    """From now on nothing of this process, or started by it, asks a proxy for this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [*filter(None, os.environ.get(name, "").split(",")), HOST, "localhost"]
        os.environ[name] = ",".join(dict.fromkeys(hosts))


def find(count: int) -> list[int]:
    """Different free ports."""
    found: list[int] = []
    for port in random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST):
        if len(found) == count:
            break
        if free(port):
            found.append(port)
    return found
