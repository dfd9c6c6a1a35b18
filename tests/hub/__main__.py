"""Serve the Hub: `python -m hub --models-dir DIR [--host 127.0.0.1] [--port 0] [--first ID ...]`.

Makes the models that DIR lacks (progress on stderr), then prints the Hub's address as one line on
stdout. With `--first`, only these are made before; any other one when it is first asked for.
Stops on SIGTERM.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from hub.app import Hub
from hub.catalogue import MODELS
from hub.control import Control
from hub.stock import Stock


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hub", description="A small Hub over tiny models."
    )
    parser.add_argument("--models-dir", type=Path, required=True, help="made once, found again")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--first", nargs="+", default=[], metavar="ID", help="all, if left out")
    options = parser.parse_args()

    # While models are made, a signal must unwind, so that the scratch folder is deleted; afterwards
    # uvicorn handles signals.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    stock = Stock(MODELS, options.models_dir)
    stock.lay_in([stock.models[name] for name in options.first] or MODELS)

    with socket.create_server((options.host, options.port)) as listener:
        host, port = listener.getsockname()[:2]
        try:
            # Without a buffer, which Python would write once more at exit.
            os.write(sys.stdout.fileno(), f"http://{host}:{port}\n".encode())
        except BrokenPipeError:
            return  # the process that started it has ended
        config = uvicorn.Config(
            Control(Hub(stock)),
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
