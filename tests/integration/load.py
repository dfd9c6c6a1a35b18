"""Concurrent callers that count their answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

import httpx2

from integration.caller import Account

TIMEOUT_S = 180.0
# Between an answer and the next request of the same caller.
PAUSE_S = 0.1


class Load:
    """Threads that send generation requests until the block ends.

    `answers` counts status codes, and names of exceptions of failed connections; `other` has the
    texts of answers other than 200.
    """

    def __init__(self, account: Account, url: str, callers: int = 4) -> None:
        self.answers: Counter[str] = Counter()
        self.other: list[str] = []
        self._account, self._url = account, url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call_on) for _ in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call_on(self) -> None:
        body = {"modelUrl": "lilypad/tiny-text-classification"}
        with httpx2.Client(base_url=self._url, timeout=60) as http:
            while not self._stop.is_set():
                try:
                    answer = http.post("/v1/api/generate", json=body, headers=self._account.headers)
                except httpx2.TransportError as error:
                    self.answers[type(error).__name__] += 1
                    continue
                self.answers[str(answer.status_code)] += 1
                if answer.status_code != 200:
                    self.other.append(answer.text)
                # Otherwise the load would delay the very event that this waits for.
                self._stop.wait(PAUSE_S)

    def wait_for(self, more: int) -> None:
        """Wait until this many more requests have succeeded."""
        enough = self.answers["200"] + more
        wait_until(lambda: self.answers["200"] >= enough)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for a condition, with a generous timeout that turns a hang into a failure."""
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, f"waited for {TIMEOUT_S:g} s in vain"
        time.sleep(0.02)
