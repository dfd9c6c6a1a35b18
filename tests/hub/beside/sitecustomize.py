"""A patch, run when Python starts, for importing torchvision with a torch without CUDA.

torchvision's wheel is built for the torch that has CUDA, and beside any other its compiled part
does not load. All else of it is Python, which needs two names of that part to be declared. The one
that modules come to use, the choice among masks that overlap, is given a body.
"""

import importlib.util
from typing import Any

import torch


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return indices of boxes, best first, that overlap no better box by more than `threshold`."""
    left = scores.argsort(descending=True, stable=True)
    kept = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        left = left[shared <= threshold * (areas[best] + areas[left] - shared)]
    return torch.stack(kept) if kept else left


if torch.version.cuda is None and importlib.util.find_spec("torchvision"):
    library: Any = torch.library.Library  # its functions lack type annotations
    library = library("torchvision", "DEF")  # lives as long as this module
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")

    from torchvision import extension

    extension._has_ops = lambda: True
