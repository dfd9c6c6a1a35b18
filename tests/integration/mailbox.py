"""A mail server that stores the mails it receives."""

import re
from queue import Queue
from typing import Any, Self

from aiosmtpd.controller import Controller

from local import ports

PATIENCE_S = 120.0


class Mailbox:
    """Received mails, oldest first; `received` lists their addressees."""

    def __init__(self) -> None:
        [port] = ports.find(1)
        self.url = f"smtp://127.0.0.1:{port}"
        self.received: list[str] = []
        self._mails: Queue[tuple[list[str], str]] = Queue()
        self._server = Controller(self, hostname="127.0.0.1", port=port)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  (aiosmtpd's name)
        self.received += envelope.rcpt_tos
        self._mails.put((envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"

    def next_link(self, email: str) -> str:
        """Wait for the next mail to the address; return the link in it."""
        while True:
            to, text = self._mails.get(timeout=PATIENCE_S)
            if to == [email]:
                [link] = re.findall(r"https?://\S+token=\S+", text)
                return str(link)
