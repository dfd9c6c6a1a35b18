"""Checks that a model's files contain its weights and vocabulary."""

import sys
from typing import Any


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


def check_vocabulary(tokenizer: Any) -> None:
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise IncompleteModel("the model's files lack its tokenizer's vocabulary")
