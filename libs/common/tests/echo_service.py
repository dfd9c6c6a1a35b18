"""A minimal service for tests: echoes a text after a delay."""

import asyncio
import os
import sys

from common import service
from common.contracts import Message, Rpc
from common.errors import NotFound
from common.settings import ServiceSettings


class Say(Message):
    text: str
    seconds: float = 0


class Said(Message):
    text: str
    pid: int
    together: int


SAY = Rpc("rpc.echo.say", Say, Said, timeout=5)
SHOUT = Rpc("rpc.echo.shout", Say, Said, timeout=5)


running: list[Say] = []


async def say(request: Say) -> Said:
    running.append(request)
    await asyncio.sleep(request.seconds)
    together = len(running)
    running.remove(request)
    if request.text == "absent":
        raise NotFound("nothing of that name", name="absent")
    if request.text == "bug":
        raise RuntimeError("secret inside")
    return Said(text=request.text, pid=os.getpid(), together=together)


class Shouting:
    """Handlers that declare their contracts."""

    @service.answers(SHOUT, at_once=1, waiting=0)
    async def shout(self, request: Say) -> Said:
        await asyncio.sleep(request.seconds)
        return Said(text=request.text.upper(), pid=os.getpid(), together=1)


async def main(url: str, at_once: int, waiting: int) -> None:
    async with service.connect("echo", ServiceSettings(nats_url=url)) as echo:
        await echo.answer(SAY, say, at_once=at_once, waiting=waiting)
        await echo.serve(Shouting())
        await echo.answer_discovery()
        await echo.run_until_stopped()


if __name__ == "__main__":
    at_once, waiting = (int(a) for a in (sys.argv[2:] or ("64", "1024")))
    asyncio.run(main(sys.argv[1], at_once, waiting))
