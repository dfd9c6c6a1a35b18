"""A proxy between a client and the service, for tests of broken connections."""

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Cable(socketserver.ThreadingTCPServer):
    """A TCP proxy whose connections can be cut and restored."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Ends)
        address = urlsplit(url)
        self.service = (address.hostname, address.port)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.is_connected = True
        self.open: set[socket.socket] = set()

    def cut(self) -> None:
        self.is_connected = False
        for end in list(self.open):
            _close(end)

    def mend(self) -> None:
        self.is_connected = True

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Ends(socketserver.BaseRequestHandler):
    server: Cable

    def handle(self) -> None:
        if not self.server.is_connected:
            return
        with socket.create_connection(self.server.service) as other:
            ends = {self.request, other}
            self.server.open |= ends
            back = threading.Thread(target=_pass_on, args=(other, self.request), daemon=True)
            back.start()
            _pass_on(self.request, other)
            back.join()
            self.server.open -= ends


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _close(source)
    _close(target)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
