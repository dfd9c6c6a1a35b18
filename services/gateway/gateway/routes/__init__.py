"""Every endpoint of the public API, grouped by topic."""

from common.bus import Bus
from gateway.door import Guards
from gateway.endpoint import Endpoint, endpoints_of
from gateway.hub_tokens import HubTokens
from gateway.keyring import KeyRing
from gateway.routes.accounts import AccountRoutes
from gateway.routes.benchmarks import BenchmarkRoutes
from gateway.routes.generations import GenerationRoutes
from gateway.routes.hub_tokens import HubTokenRoutes
from gateway.routes.keys import KeyRoutes
from gateway.routes.monitoring import MonitoringRoutes
from gateway.routes.reading import SampleRoutes, UsageRoutes
from gateway.routes.second_factor import SecondFactorRoutes
from gateway.routes.verifications import VerificationRoutes
from gateway.routes.webhooks import WebhookRoutes


def endpoints(bus: Bus, guards: Guards, keyring: KeyRing, hub_tokens: HubTokens) -> list[Endpoint]:
    """List the endpoints in the order in which the documentation shows them."""
    return endpoints_of(
        GenerationRoutes(bus, guards),
        VerificationRoutes(bus),
        BenchmarkRoutes(bus, guards),
        MonitoringRoutes(bus),
        SampleRoutes(bus, guards),
        WebhookRoutes(bus),
        AccountRoutes(guards),
        SecondFactorRoutes(guards.accounts),
        HubTokenRoutes(hub_tokens),
        KeyRoutes(keyring),
        UsageRoutes(guards),
    )
