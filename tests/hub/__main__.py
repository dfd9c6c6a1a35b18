"""Serve the Hub: `python -m hub --models-dir DIR [--host 127.0.0.1] [--port 0]`.

Makes the models that DIR does not have yet (progress on stderr), then prints its address as one
line on stdout. Stops on SIGTERM.
"""

import argparse
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from hub.app import Hub
from hub.catalogue import MODELS
from hub.control import Control
from hub.making import made
from hub.repository import read_repository


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hub", description="A small Hub over tiny models."
    )
    parser.add_argument("--models-dir", type=Path, required=True, help="made once, found again")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()

    # While models are made a signal must unwind, so that the scratch folder goes; then uvicorn's.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folders = made(MODELS, options.models_dir)
    hub = Hub(read_repository(model, folders[model.id]) for model in MODELS)

    with socket.create_server((options.host, options.port)) as listener:
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}", flush=True)
        config = uvicorn.Config(
            Control(hub),
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
