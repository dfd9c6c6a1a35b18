"""Loader of weights that GPTQ or AWQ packed into integers."""

from pathlib import Path
from typing import Any

from generator.templates.inference.checkpoint import load_complete

# The column that each four bits of AWQ's numbers stand for.
AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)


def load_integers(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load a model whose weights GPTQ or AWQ packed into integers."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    settings = manifest["run"]
    chosen = getattr(transformers, settings["class"])._model_mapping[type(config)]
    weights = unpack_integers(directory, config, dtype)
    options = {"config": config, "state_dict": weights, "dtype": dtype}
    attention = settings["attention"]
    model = load_complete(
        lambda: chosen.from_pretrained(None, attn_implementation=attention, **options)
    )
    if (Path(directory) / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(directory)
    return model.to(device)


def unpack_integers(directory: str, config: Any, dtype: Any) -> dict[str, Any]:
    """Read a model's weights in `dtype`, with packed matrices dequantized."""
    from safetensors.torch import load_file

    described = config.quantization_config
    del config.quantization_config
    packed: dict[str, Any] = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        packed |= load_file(file)
    weights = {}
    for name in list(packed):
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            parts = {
                part: packed.pop(f"{layer}.{part}")
                for part in ("qweight", "qzeros", "scales", "g_idx")
                if f"{layer}.{part}" in packed
            }
            weights[f"{layer}.weight"] = multiply(parts, described).to(dtype)
    return {name: value.to(dtype) for name, value in packed.items()} | weights


def multiply(parts: dict[str, Any], described: dict[str, Any]) -> Any:
    """Dequantize a layer's matrix: (integer - zero point) x scale."""
    import torch

    bits = described["bits"]
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers, zeros, scales = parts["qweight"], parts["qzeros"], parts["scales"].float()
    zeros = (zeros[:, :, None] >> shifts) & (2**bits - 1)
    if described["quant_method"] == "awq":
        numbers = ((numbers[:, :, None] >> shifts) & 15)[:, :, AWQ_COLUMNS].flatten(1)
        zeros = zeros[:, :, AWQ_COLUMNS]
    else:
        numbers = ((numbers[:, None, :] >> shifts[:, None]) & (2**bits - 1)).flatten(0, 1)
        if described.get("checkpoint_format") != "gptq_v2":  # zeros are stored less one
            zeros = (zeros + 1) & (2**bits - 1)
    rows = numbers.shape[0]
    groups = parts.get("g_idx")
    if groups is None:
        groups = torch.arange(rows) // (rows // scales.shape[0])
    groups = groups.long()
    return ((numbers - zeros.flatten(1)[groups]) * scales[groups]).T.contiguous()
