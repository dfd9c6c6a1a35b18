"""The device that torch computes on, and its random numbers."""

import random
from typing import Any


def choose_device(manifest: dict[str, Any]) -> tuple[str, Any]:
    import torch

    if manifest["resources"]["gpu"] and torch.cuda.is_available():
        return "cuda", getattr(torch, manifest["run"]["dtype"])
    return "cpu", torch.float32


def seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
