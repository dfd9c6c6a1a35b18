"""Ports on 127.0.0.1: which one is free, and whether one is."""

import random
import socket
from contextlib import closing

# Below the range from which Linux and macOS take the ports of outgoing
# connections: a server that is started again finds its port still free.
LOWEST, HIGHEST = 20_000, 32_000

HOST = "127.0.0.1"


def free(port: int) -> bool:
    """Whether nobody listens there."""
    with closing(socket.socket()) as probe:
        # As servers do: a connection that is still winding down is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def find(count: int) -> list[int]:
    """Different free ports."""
    found: list[int] = []
    for port in random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST):
        if len(found) == count:
            break
        if free(port):
            found.append(port)
    return found
