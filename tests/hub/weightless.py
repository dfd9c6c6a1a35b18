"""Makers of repositories without torch weights; none of them imports torch.

A test that makes models, and does not mind which, is quick with these.
"""

import json
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from hub.gguf import write_gguf


def gguf_only(folder: Path) -> None:
    write_gguf(
        folder / "tiny-f32.gguf",
        {"general.architecture": "llama", "llama.context_length": 128},
        {"token_embd.weight": [64, 512], "output.weight": [64, 512]},
    )


def policy(folder: Path) -> None:
    """Make a stable-baselines3 repository: an archive that only that library reads."""
    with ZipFile(folder / "policy.zip", "w") as archive:
        archive.writestr(ZipInfo("data"), json.dumps({"policy_class": "MlpPolicy"}))


def card_only(folder: Path) -> None:
    """Add nothing: the card is already in the folder."""
