"""Size in bytes of the states of recurrent layers, which does not depend on the tokens.

Mamba 1        inner x (kernel + state), inner = expand x hidden (Gu and Dao 2023)
Mamba 2        heads x head x state, and (heads x head + 2 x groups x state) x kernel (Dao 2024)
delta nets     value heads x key x value, and (2 x keys + values) x kernel (Yang et al. 2024)
convolutions   hidden x kernel (LFM2)

The recurrent part is stored in float32 whatever dtype the model computes in.
"""

from models.config import Config, hidden_size, number

FLOAT32_BYTES = 4


def state_bytes(text: Config, *, layers: int, width: int) -> int:
    """Return the bytes of all recurrent layers' states for one input."""
    convolved, recurrent = _numbers(text)
    return layers * (convolved * width + recurrent * FLOAT32_BYTES)


def _numbers(text: Config) -> tuple[int, int]:
    """Return how many numbers a layer holds in its convolution's window and recurrent state."""
    kernel = number(text, "linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel") or 4
    if heads := number(text, "linear_num_heads"):
        head = number(text, "linear_head_dim") or 0
        return 3 * heads * head * kernel, heads * head**2
    if heads := number(text, "linear_num_value_heads"):
        key, value = (
            number(text, "linear_key_head_dim") or 0,
            number(text, "linear_value_head_dim") or 0,
        )
        keys = (number(text, "linear_num_key_heads") or heads) * key
        return (2 * keys + heads * value) * kernel, heads * key * value
    hidden = hidden_size(text) or 0
    if window := number(text, "conv_L_cache"):
        return hidden * window, 0
    state = number(text, "mamba_d_state", "ssm_state_size", "state_size") or 0
    inner = hidden * (number(text, "mamba_expand", "expand") or 2) if state else 0
    several = number(text, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    each = number(text, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
    if text.get("model_type") == "mamba2":
        each = number(text, "head_dim")
    if several and each and state:
        inner = several * each
    groups = number(text, "mamba_n_groups", "mamba_ngroups", "n_groups") or 0
    return (inner + 2 * groups * state) * kernel, inner * state
