"""The services of the system, one row each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """A service, and the settings with which the stack runs it.

    Attributes:
        name: its NATS user, its database role and schema, its package.
        module: what `python -m` runs, if it is not the package.
        replicas: how many processes.
        database: whether it gets DATABASE_URL.
        http: whether it listens; then it gets HTTP_HOST and HTTP_PORT, and is ready when
            `/readyz` answers 200. Else it is ready when it answers on the bus.
        probed: whether it gets PROBE_PORT, at which it answers `/metrics` too.
        encrypts: whether it gets ENCRYPTION_KEYS.
        hub: whether it reads models, and so gets HF_ENDPOINT and HF_TOKEN.
    """

    name: str
    replicas: int = 1
    database: bool = False
    http: bool = False
    probed: bool = False
    encrypts: bool = False
    hub: bool = False
    module: str | None = None


SERVICES = (
    Service("gateway", replicas=2, database=True, http=True, encrypts=True),
    Service("generator", replicas=2, hub=True),
    Service("benchmarker", database=True),
    Service("worker", hub=True, module="benchmarker.worker"),
    Service("metrics", replicas=2, database=True),
    Service("realtime", replicas=2, http=True),
    Service("webhooks", database=True, encrypts=True),
)
