"""The runtime of every service: the bus, the process, errors and settings."""

import sys

# The NATS client imports aiohttp wherever it is installed, for web sockets, which no service
# opens; it would take a fifth of each process's start.
if "aiohttp" not in sys.modules:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
    import nats.aio.transport  # noqa: F401  (keeps the module without aiohttp)

    del sys.modules["aiohttp"]
