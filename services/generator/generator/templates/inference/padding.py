"""Finds out whether texts of several lengths may stand in one batch."""

from typing import Any


def pads(tokenizer: Any, model: Any) -> bool:
    """Return whether the tokenizer has a token to fill up with, and the model knows it.

    Decoders that classify look for the last token before it, and refuse a batch without.
    """
    config = model.config.get_text_config()
    return tokenizer.pad_token_id is not None and config.pad_token_id is not None
