"""A stand-in for the gateway in tests of the edge, which echoes each request.

`/readyz` answers 200 until a POST to `/unready`; `/slow/<seconds>` waits;
`/v1/api/refused/<status>` has that status;
`/die` ends the process while the request is under way. To the edge it says
that `Authorization: ACCOUNT` is an account's, and that a request without it is not admitted.
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
    request_headers = dict(scope["headers"])
    account = request_headers.get(b"authorization", b"")
    if path == "/readyz":
        status = 200 if ready else 503
    elif path.startswith("/admit/"):
        status = 200 if account else 401
    else:
        served.append(f"{scope['method']} {path}")
        await _do(path)
        if "/refused/" in path:
            status = int(path.rpartition("/")[2])
    answer = {
        "pid": os.getpid(),
        "path": scope["raw_path"].decode(),
        "size": size,
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "served": served,
    }
    content = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    headers += [(name, value) for name, value in scope["headers"] if name == b"x-request-id"]
    if path.startswith("/admit/") and account:
        headers.append((b"x-lilypad-account", account))
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
