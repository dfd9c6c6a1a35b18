"""torchvision and timm, in a folder separate from the environment.

transformers prepares pictures otherwise as soon as torchvision is there. Only the modules that
install it are to be tried with it, so it is on the path of their processes alone.
"""

import sys
from pathlib import Path

# `make setup` installs them there.
FOLDER = Path(sys.prefix) / "beside"


def environment() -> dict[str, str]:
    """Return the variables that let a process import torchvision and timm."""
    return {"PYTHONPATH": str(FOLDER)}
