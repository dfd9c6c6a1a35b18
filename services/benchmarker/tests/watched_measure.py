"""A measuring process that ends if a library looks for a GPU before the first fork."""

import os
import runpy

import torch

IMPORTING = os.getpid()


def watch(name: str) -> None:
    looked = getattr(torch.cuda, name)

    def look():
        assert os.getpid() != IMPORTING, f"torch.cuda.{name} before the fork"
        return looked()

    setattr(torch.cuda, name, look)


for name in ("is_available", "device_count", "init"):
    watch(name)
runpy.run_module("benchmarker.worker.measure", run_name="__main__")
