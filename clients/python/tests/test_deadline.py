import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lilypad_client import APITimeoutError, LilypadClient

# Bytes that a server sends first, bytes that it repeats, and the pause between them in seconds.
HEADERS = (b"HTTP/1.1 200 OK\r\n", b"X-Header: 1\r\n", 0.1)
INTERIM = (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9, 0.0)
MAX_SENDING_S = 20.0


@pytest.fixture(params=[HEADERS, INTERIM], ids=["headers", "interim answers"])
def dripping(request: pytest.FixtureRequest) -> Iterator[tuple[str, threading.Event]]:
    """The address of a server whose headers never end, and an event set when it stops sending."""
    first, piece, pause_s = request.param
    done = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            end_s = time.monotonic() + MAX_SENDING_S
            try:
                connection.sendall(first)
                while time.monotonic() < end_s:
                    connection.sendall(piece)
                    if done.wait(pause_s):
                        return
            except OSError:
                return
            done.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", done
        done.set()
        thread.join()


def test_endless_headers_are_read_until_the_calls_deadline(
    dripping: tuple[str, threading.Event],
) -> None:
    url, done = dripping
    with (
        LilypadClient("lmg_live_x", url, timeout=1, max_retries=0) as client,
        pytest.raises(APITimeoutError),
    ):
        client.generate_module("a/b")
    assert not done.is_set(), "the client gave up while the server still sent"
