"""Checks that a model's files contain its weights and vocabulary."""

import sys
from typing import Any

from generator.templates.inference.inputs import InvalidInput


def load_complete(load: Any) -> Any:
    """Call `load`. Raises IncompleteModel if the files lack a weight that answers depend on.

    The libraries fill what is missing with random numbers, and say so in a log.
    """
    import transformers

    bases: list[Any] = [transformers.PreTrainedModel]
    if "diffusers" in sys.modules:
        bases.append(sys.modules["diffusers"].ModelMixin)
    plain = [base.__dict__["from_pretrained"] for base in bases]

    def checked(method: Any) -> Any:
        def from_pretrained(chosen: Any, *arguments: Any, **options: Any) -> Any:
            options["output_loading_info"] = True
            model, report = method.__func__(chosen, *arguments, **options)
            check_weights(report["missing_keys"])
            return model

        return classmethod(from_pretrained)

    for base, method in zip(bases, plain, strict=True):
        base.from_pretrained = checked(method)
    try:
        return load()
    finally:
        for base, method in zip(bases, plain, strict=True):
            base.from_pretrained = method


class IncompleteModel(Exception):
    """Error for model files without a weight that answers depend on."""


def check_weights(missing: Any) -> None:
    # No answer depends on an encoder's pooler, or on buffers that only training uses.
    unused = (".masked_spec_embed", ".num_batches_tracked")
    needed = sorted(
        name
        for name in missing
        if not name.startswith(("pooler.", "encoder.pooler.")) and not name.endswith(unused)
    )
    if needed:
        raise IncompleteModel(
            f"the model's files lack {len(needed)} of its weights, such as {needed[0]}: it was not "
            "trained for this task, or its repository is not whole"
        )


def check_vocabulary(tokenizer: Any, model: Any = None) -> None:
    """Check that the tokenizer has a vocabulary, and have the model reject tokens beyond its own.

    Raises IncompleteModel.
    """
    numbers = tokenizer.get_vocab()
    if set(numbers) <= set(tokenizer.all_special_tokens):
        raise IncompleteModel("the model's files lack its tokenizer's vocabulary")
    try:
        layer = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # no model of texts
        return
    rows = getattr(layer, "num_embeddings", None)
    if not isinstance(rows, int) or max(numbers.values()) < rows:
        return

    def check_tokens(_: Any, given: Any) -> None:
        largest = int(given[0].max()) if given and given[0].numel() else 0
        if largest >= rows:
            token = str(tokenizer.convert_ids_to_tokens(largest))[:40]
            raise InvalidInput(
                f"inputs: the model has no vector for the token {token!r}, which its tokenizer "
                f"numbers {largest}: its weights have {rows}"
            )

    layer.register_forward_pre_hook(check_tokens)
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is not None and pad >= rows:
        tokenizer.pad_token = None  # texts are read one at a time, or padded with another token
