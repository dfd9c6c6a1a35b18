"""For every test of the checkout."""

from hypothesis import HealthCheck, settings

from local import ports

# How long an example takes is the machine's business, not the behaviour's.
settings.register_profile(
    "checkout", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("checkout")

# A proxy of this machine's is for the registries alone.
ports.reach_directly()
