"""Stands in for the gateway where the edge alone is looked at: tells what reached it.

`/readyz` answers 200 until a POST to `/unready`; `/slow/<seconds>` waits;
`/die` ends the process while the request is under way.
"""

import asyncio
import json
import os
from typing import Any

import uvicorn

ready = True
served: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    path, status = scope["path"], 200
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    if path == "/readyz":
        status = 200 if ready else 503
    else:
        served.append(f"{scope['method']} {path}")
        await _do(path)
    answer = {
        "pid": os.getpid(),
        "path": scope["raw_path"].decode(),
        "size": size,
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "served": served,
    }
    content = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _do(path: str) -> None:
    global ready  # noqa: PLW0603  (the one thing that this program remembers)
    if path == "/unready":
        ready = False
    if path == "/die":
        os._exit(1)
    if "/slow/" in path:
        await asyncio.sleep(float(path.rpartition("/")[2]))


if __name__ == "__main__":
    uvicorn.run(
        app,
        host=os.environ["HTTP_HOST"],
        port=int(os.environ["HTTP_PORT"]),
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
