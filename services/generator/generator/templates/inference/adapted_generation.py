"""Text generation by a model with a merged adapter."""

from typing import Any

from generator.templates.inference.checkpoint import IncompleteModel
from generator.templates.inference.classes import load_model
from generator.templates.inference.continuing import answer as answer
from generator.templates.inference.piping import load_pipeline


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the base from `directory`, and merge the adapter from its `adapter` folder."""
    import peft

    base = load_model(manifest, directory, dtype).to(device)
    folder = f"{directory}/adapter"
    # Not by `from_pretrained`, which does not return the report of it.
    adapted = peft.PeftModel(base, peft.PeftConfig.from_pretrained(folder))
    check_fit(adapted.load_adapter(folder, "default"))
    model = adapted.merge_and_unload().eval()
    return load_pipeline(manifest, directory, device, dtype, model=model, tokenizer=directory)


def check_fit(report: Any) -> None:
    """Raise IncompleteModel if base and adapter have weights without a counterpart."""
    if unmatched := sorted({*report.missing_keys, *report.unexpected_keys}):
        raise IncompleteModel(
            f"the adapter does not fit its base: {len(unmatched)} of its weights, such as "
            f"{unmatched[0]}, are in one of the two only"
        )
