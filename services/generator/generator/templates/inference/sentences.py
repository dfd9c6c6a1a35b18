"""Loader of sentence-transformers models."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, load_complete


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the files in `directory` as the class that module.yaml names."""
    return load_as(manifest["run"]["class"], manifest, directory, device, dtype)


def load_as(name: str, manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the files in `directory` as a class of sentence-transformers."""
    import sentence_transformers

    settings = manifest["run"]
    kind = getattr(sentence_transformers, name)
    arguments = {
        "attn_implementation": settings["attention"],
        "dtype": dtype,
        "use_safetensors": True,
    }
    try:
        model = load_complete(lambda: kind(directory, device=device, model_kwargs=arguments))
    except ValueError:  # this attention is unsupported: use the reference's
        arguments["attn_implementation"] = "eager"
        model = load_complete(lambda: kind(directory, device=device, model_kwargs=arguments))
    # A router has a tokenizer in each of its routes.
    for part in model.modules():
        tokenizer: Any = getattr(part, "tokenizer", None)
        if hasattr(tokenizer, "all_special_tokens"):  # a word-vector table: a bare tokenizer
            check_vocabulary(tokenizer, getattr(part, "auto_model", None))
            if tokenizer.pad_token_id is None:  # the library pads every batch, even one of one
                tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if routers(model):
        model.to(dtype)  # the library casts the modules after a transformer, not those of a route
    if settings["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model[0].compile(dynamic=True)
    return model


def routers(model: Any) -> list[Any]:
    """Return the modules that encode queries and documents with different modules."""
    return [part for part in model if type(part).__name__ == "Router"]


def options(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of every encoding call."""
    return {"batch_size": manifest["run"]["batchSize"], "show_progress_bar": False}
