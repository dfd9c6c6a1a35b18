"""What is counted of a call, on modules that are small enough to count by hand."""

import pytest
import torch

from benchmarker.memory import cache_reads, kv_cache_bytes
from benchmarker.worker.counting import operations, weights_read

GPT = {"n_embd": 64, "n_head": 4, "n_layer": 2}
BART = {"d_model": 32, "encoder_layers": 6, "decoder_layers": 2, "decoder_attention_heads": 4}


@pytest.mark.parametrize("shared", [1, 4])
def test_fused_attention_is_counted_as_what_it_computes(shared) -> None:
    query = torch.randn(2, 8, 96, 16)
    key, value = (torch.randn(2, 8 // shared, 96, 16) for _ in range(2))

    def attend() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=shared > 1)

    with torch.inference_mode():
        counted, _ = operations(attend, "sdpa")
    assert counted == 2 * 2 * 8 * 96 * 96 * (16 + 16)


def test_what_cannot_be_counted_ends_nothing_and_says_why() -> None:
    def refuse() -> None:
        raise AssertionError("no formula for these shapes")

    assert operations(refuse, "sdpa") == (None, "an operation could not be counted: AssertionError")
    counted, why = operations(lambda: None, "flash_attention_2")
    assert counted is None
    assert "flash-attn" in why


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Embedding(1000, 8)
        self.once = torch.nn.Linear(8, 8, bias=False)
        self.shared = torch.nn.Linear(8, 8, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.shared(self.shared(self.once(self.rows(ids))))


def test_weights_are_read_each_time_that_their_module_runs() -> None:
    module, ids = Twice(), torch.tensor([[1, 2]])
    read, _ = weights_read(lambda: module(ids), {})
    assert read == 3 * 8 * 8 * 4
    read, why = weights_read(lambda: module(ids), {"num_local_experts": 8})
    assert read is None
    assert "experts" in why


def test_keys_and_values_are_read_again_for_every_token_but_the_first() -> None:
    each = 2 * 2 * 64 * 4  # keys and values of two layers, four bytes a number
    assert cache_reads(GPT, tokens=10, new_tokens=4, item=4) == each * (11 + 12 + 13)
    assert cache_reads(GPT, tokens=10, new_tokens=1, item=4) == 0
    # Only the decoder has any.
    assert kv_cache_bytes(BART, 1, item=4) == 2 * 2 * 32 * 4
    for kept in ({"kv_lora_rank": 512}, {"layer_types": ["mamba"]}, {"n_head": None}):
        assert cache_reads({**GPT, **kept}, tokens=10, new_tokens=4, item=4) is None
