from collections.abc import Iterator
from pathlib import Path

import pytest

from local.services import Service
from local.stack import Stack

ECHO = Service("gateway", replicas=2, http=True, module="local.tests.echo")
DEPLOY = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def edge() -> Iterator[Stack]:
    """Envoy in front of two stand-ins for the gateway."""
    with Stack(
        servers={"envoy"}, services=[ECHO], environment={"PYTHONPATH": str(DEPLOY)}
    ) as stack:
        yield stack


@pytest.fixture(scope="package")
def servers() -> Iterator[Stack]:
    """NATS and PostgreSQL, with the schemas of two services that are not running."""
    services = [Service("gateway", replicas=0, database=True), Service("metrics", 0, database=True)]
    with Stack(servers={"nats", "postgres"}, services=services) as stack:
        yield stack
