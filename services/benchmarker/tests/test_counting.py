"""Counts of a call's operations and bytes, on small modules verified by hand."""

import pytest
import torch

from benchmarker.memory import cache_reads
from benchmarker.worker.counting import operations, weights_read

GPT = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2}
BART = {
    "model_type": "bart",
    "is_encoder_decoder": True,
    "d_model": 32,
    "encoder_layers": 6,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
}


@pytest.mark.parametrize("shared", [1, 4])
def test_fused_attention_is_counted_by_its_operations(shared) -> None:
    query = torch.randn(2, 8, 96, 16)
    key, value = (torch.randn(2, 8 // shared, 96, 16) for _ in range(2))

    def attend() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=shared > 1)

    with torch.inference_mode():
        counted, _ = operations(attend, "sdpa")
    assert counted == 2 * 2 * 8 * 96 * 96 * (16 + 16)


def test_an_uncountable_operation_yields_a_reason_instead_of_an_error() -> None:
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


def test_weights_are_counted_once_for_each_call_of_their_module() -> None:
    module, ids = Twice(), torch.tensor([[1, 2]])
    read, _ = weights_read(lambda: module(ids), {})
    assert read == 3 * 8 * 8 * 4
    read, why = weights_read(lambda: module(ids), {"num_local_experts": 8})
    assert read is None
    assert "experts" in why


def test_keys_and_values_are_read_for_each_generated_token_but_the_first() -> None:
    each = 2 * 2 * 64 * 4  # keys and values of two layers, four bytes a number
    assert cache_reads(GPT, tokens=10, new_tokens=4, width=4) == each * (11 + 12 + 13)
    assert cache_reads(GPT, tokens=10, new_tokens=1, width=4) == 0
    # The decoder's tokens grow, its encoder's do not.
    each = 2 * 2 * 32 * 4
    assert cache_reads(BART, tokens=10, new_tokens=4, width=4) == each * (11 + 12 + 13)
    for kept in ({"layer_types": ["mamba"]}, {"n_head": None}):
        assert cache_reads({**GPT, **kept}, tokens=10, new_tokens=4, width=4) is None


def test_keys_that_all_heads_share_are_read_once() -> None:
    """Falcon 7B, for example, has 71 heads that share one pair of keys and values."""
    falcon = {"model_type": "falcon", "multi_query": True, "new_decoder_architecture": False}
    sizes = {"hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32}
    read = cache_reads({**falcon, **sizes}, tokens=99, new_tokens=2, width=2)
    assert read == 2 * 64 * 32 * 100 * 2
