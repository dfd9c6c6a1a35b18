"""Support for batches of texts of different lengths."""

from typing import Any


def pads(tokenizer: Any, model: Any) -> bool:
    """Return whether both the tokenizer and the model's config have a pad token.

    Decoders that classify look for the last token before it, and refuse a batch without.
    """
    config = model.config.get_text_config()
    return tokenizer.pad_token_id is not None and config.pad_token_id is not None
