"""Makers of repositories without torch weights; none of them imports torch.

A test that makes models, and does not mind which, is quick with these.
"""

import json
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from hub.gguf import llama, write_gguf


def gguf_only(folder: Path) -> None:
    """Make one model in several packings, as most repositories of GGUF files have it."""
    for packing in ("F32", "Q8_0", "Q4_0"):
        llama(folder / f"tiny-{packing}.gguf", packing)
    (folder / "split").mkdir()
    llama(folder / "split" / "tiny-F16.gguf", "F16", parts=8)
    write_gguf(folder / "mmproj-tiny.gguf", {"general.architecture": "clip"}, {"v": [8, 8]})


def gguf_encoder(folder: Path) -> None:
    fields: dict[str, str | int] = {"general.architecture": "bert", "bert.context_length": 128}
    write_gguf(folder / "tiny-f32.gguf", fields, {"token_embd.weight": [64, 512]})


def policy(folder: Path) -> None:
    """Make a stable-baselines3 repository: an archive that only that library reads."""
    with ZipFile(folder / "policy.zip", "w") as archive:
        archive.writestr(ZipInfo("data"), json.dumps({"policy_class": "MlpPolicy"}))


def card_only(folder: Path) -> None:
    """Add nothing: the card is already in the folder."""
