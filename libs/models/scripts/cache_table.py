"""Write the bytes that the pinned transformers caches for a small model of each served decoder.

    python libs/models/scripts/cache_table.py

Each is made and called once, which takes some minutes; so the file says what it was made from, and
tests whether that is still so, and whether what `models.cache` counts is what was kept.
"""

import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path

import torch
import transformers
from transformers.utils import logging

from models.cache import UNKNOWN
from models.tables import architectures

sys.path.insert(0, str(Path(__file__).parent))
import tiny

FILE = Path(__file__).parents[1] / "tests/caches.json"
TOKENS, BATCH = 24, 2
KINDS = architectures()["text-generation"]
# Small models of these cannot be built from their config alone, or have no cache to inspect.
NOT_MADE = {
    "blt": "its patcher is a model of its own, which takes half a minute to make",
    **dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), "their index of tokens has no default sizes"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "they need another model"),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "the class takes the config of their decoder"),
    "xlstm": "its kernel takes states of other shapes than a small model has",
    **dict.fromkeys(("rwkv", "xlnet"), "they return states of their own in place of a cache"),
}
WITH_STATES_UNCOUNTED = {
    "zaya": "of 200 numbers per layer",
    "minimax": "MiniMaxCache has them apart",
}
MADE = [kind for kind in KINDS if kind not in {*NOT_MADE, *UNKNOWN}]


def kept(kind: str) -> int:
    """Return the bytes of a small model's cache after TOKENS tokens."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny.config_of(kind)).eval()
    with torch.inference_mode():
        answer = model(torch.randint(2, 60, (BATCH, TOKENS)), use_cache=True)
    cache = getattr(answer, "past_key_values", None)
    cache = getattr(answer, "cache_params", None) if cache is None else cache
    if cache is None:
        return 0
    return tiny.kept_bytes(cache, states=kind not in WITH_STATES_UNCOUNTED)


def recipe() -> str:
    """Hash everything that the file depends on: both programs, the kinds, the library."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(Path(tiny.__file__).read_bytes())
    digest.update(repr((MADE, metadata.version("transformers"))).encode())
    return digest.hexdigest()[:16]


def main() -> None:
    logging.set_verbosity_error()
    table = {"made_from": {"digest": recipe()}, "kept": {kind: kept(kind) for kind in MADE}}
    FILE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
