"""Kinds of packed weights: how config.json names them, and how modules load each.

Most kinds are unpacked when they are loaded, on any device, so that they take the memory of the
dtype that the module computes in: GPTQ and AWQ by the module, others by the library, which computes
with those of bitsandbytes as they are packed.
Kernels that compute with others are code that the library fetches from the Hub, and modules
have no network.
"""

from typing import Any, Literal

Packing = Literal["awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "mxfp4"]

# Their names, as shown.
TITLES = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "mxfp4": "MXFP4",
}
# Formats of compressed-tensors whose weights the library unpacks.
COMPRESSED_FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
# Numbers of bits of a weight, by the kinds that name it.
WIDTHS = {"awq": (4,), "compressed-tensors": (2, 3, 4, 8), "gptq": (2, 4, 8)}
# Kinds that modules do not load, by the names of `quant_method`, as shown.
KNOWN = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ, of another version than GEMM",
    "bitnet": "BitNet",
    "compressed-tensors": "compressed-tensors, in a format that the library does not unpack",
    "eetq": "EETQ",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "fbgemm_fp8": "FBGEMM FP8",
    "gptq": "GPTQ, of other bits than 2, 4 and 8",
    "hqq": "HQQ",
    "modelopt": "NVIDIA's Model Optimizer",
    "nvfp4": "NVFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}


def read(written: Any) -> dict[str, Any]:
    """Reduce a config's `quantization_config`, to only `title` if modules cannot load its kind."""
    return (_read(written) if isinstance(written, dict) else None) or {"title": _title(written)}


def _read(written: dict[str, Any]) -> dict[str, Any] | None:
    kind = written.get("quant_method")
    if kind in ("fp8", "mxfp4"):
        return {"kind": kind}
    bits = written.get("bits")
    if kind == "gptq" and _is_width(kind, bits):
        return {"kind": kind, "bits": bits}
    version = written.get("version", "gemm")
    is_gemm = isinstance(version, str) and version.lower() == "gemm"
    if kind == "awq" and is_gemm and _is_width(kind, bits):
        return {"kind": kind, "bits": bits}
    chosen = [written.get(f"load_in_{width}bit") for width in (4, 8)]
    if kind == "bitsandbytes" and any(value is True for value in chosen):
        return {"kind": kind}
    if kind == "compressed-tensors" and (bits := _fewest_bits(written)):
        return {"kind": kind, "bits": bits}
    return None


def _fewest_bits(written: dict[str, Any]) -> int | None:
    """Return the bits of the narrowest weights; None if a group of them has another format."""
    groups = written.get("config_groups")
    sparse = written.get("sparsity_config") or {}
    if not isinstance(groups, dict) or not isinstance(sparse, dict):
        return None
    if sparse.get("format") not in (None, "dense"):
        return None
    bits = []
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            return None
        if not _is_width("compressed-tensors", weights.get("num_bits")):
            return None
        if (group.get("format") or written.get("format")) not in COMPRESSED_FORMATS:
            return None
        bits.append(weights["num_bits"])
    return min(bits, default=None)


def _is_width(kind: str, bits: Any) -> bool:
    """Whether weights of a kind may have this number of bits; a float such as 4.0 is refused."""
    return isinstance(bits, int) and bits in WIDTHS[kind]


def _title(written: Any) -> str | None:
    """Return the name of a known kind, for a message."""
    kind = written.get("quant_method") if isinstance(written, dict) else None
    if kind == "modelopt" and written.get("quant_algo") == "NVFP4":
        return f"{KNOWN['nvfp4']} of {KNOWN[kind]}"
    return KNOWN.get(kind) if isinstance(kind, str) else None


def unpacked(packing: dict[str, Any], elements: dict[str, int]) -> dict[str, int]:
    """Return how many elements of each dtype there are once loaded; unpacked weights are BF16."""
    kind, loaded = packing["kind"], dict[str, int]()
    for dtype, count in elements.items():
        times = _times(kind, dtype, packing.get("bits", 8))
        name = "BF16" if times else dtype
        loaded[name] = loaded.get(name, 0) + count * (times or 1)
    return loaded


def _times(kind: str, dtype: str, bits: int) -> int:
    """Return how many weights one element of a dtype packs; 0 if it is not unpacked."""
    if kind == "bitsandbytes":
        return 0
    if dtype.startswith("F8_"):
        return 1
    if kind == "mxfp4" and dtype == "U8":
        return 2
    if dtype == "I32" and kind in ("awq", "compressed-tensors", "gptq"):
        return -(-32 // bits)
    if dtype == "I8" and kind == "compressed-tensors":
        return 1
    return 0
