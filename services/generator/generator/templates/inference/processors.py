"""The device and the random numbers of modules without torch."""

import random
from typing import Any


def choose_device(manifest: dict[str, Any]) -> tuple[str, Any]:  # noqa: ARG001  (as all modules)
    return "cpu", None


def seed_everything(seed: int) -> None:
    """Seed the numbers from which each input's own seed is drawn."""
    random.seed(seed)
