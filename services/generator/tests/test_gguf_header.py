"""The parser of GGUF headers: hostile and broken ones, and those of llama.cpp's own package."""

import struct
import sys
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ModelRefused
from generator import gguf
from hub import gguf as written

sys.path.insert(0, str(Path(__file__).parent))
from gguf_headers import header


def altered() -> dict[str, bytes]:
    """Return hostile and broken headers, by the name of the fault."""
    good, _ = header()
    count = 8 + 8  # of the fields, behind the number of tensors
    return {
        "does not begin": b"GGML" + good[4:],
        "big-endian": good[:4] + struct.pack(">I", 3) + good[8:],
        "a version other": good[:4] + struct.pack("<I", 1) + good[8:],
        "more fields": good[:count] + struct.pack("<Q", 2**60) + good[count + 8 :],
        "more fields or tensors": good[:8] + struct.pack("<Q", 2**60) + good[16:],
        "a key that is too long": good[:24] + struct.pack("<Q", 2**50) + good[32:],
        "longer than any header": good.replace(
            struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 2**62) + b"llama", 1
        ),
        "longer list": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 8, 2**50)),
        "a list of lists": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 9, 2)),
        "of a type that": good.replace(struct.pack("<I", 4), struct.pack("<I", 99), 1),
        "the same field twice": good.replace(
            b"attention.head_count_kv", b"attention.head_count"
        ).replace(struct.pack("<Q", 29) + b"llama", struct.pack("<Q", 26) + b"llama"),
        "dimensions": good.replace(
            struct.pack("<IQQ", 2, 4096, 4096), struct.pack("<IQQ", 9, 4096, 4096)
        ),
        "an impossible shape": good.replace(
            struct.pack("<IQQ", 2, 4096, 4096), struct.pack("<IQQ", 2, 2**60, 2**60)
        ),
        "ends within": good[:-9],
        "shorter than its header says": good,
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1",
    }


@pytest.mark.parametrize("fault", altered())
def test_a_broken_or_hostile_header_is_refused_and_its_fault_is_named(fault: str) -> None:
    content = altered()[fault]
    with pytest.raises(ModelRefused, match=fault):
        gguf.read(content, len(content))


@given(cut=st.integers(0, len(header()[0]) - 1))
def test_a_header_truncated_anywhere_is_read_as_incomplete(cut: int) -> None:
    content, size = header()
    assert gguf.read(content[:cut], size) is None


@given(changes=st.lists(st.tuples(st.integers(0, len(header()[0]) - 1), st.integers(0, 255))))
def test_a_header_with_any_bytes_changed_is_read_refused_or_incomplete(
    changes: list[tuple[int, int]],
) -> None:
    content = bytearray(header()[0])
    for place, byte in changes:
        content[place] = byte
    try:
        found = gguf.read(bytes(content), 2**40)
    except ModelRefused:
        return
    assert found is None or all(count > 0 for count in found.elements.values())


@given(content=st.binary(max_size=200))
def test_no_bytes_after_the_magic_number_break_the_parser(content: bytes) -> None:
    try:
        gguf.read(b"GGUF" + struct.pack("<I", 3) + content, 2**40)
    except ModelRefused:
        return


@pytest.mark.parametrize("packing", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_header_is_read_as_llama_cpps_own_package_reads_it(packing: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    written.llama(path, packing, words=3)
    content = path.read_bytes()
    found = gguf.read(content, len(content))
    assert found
    reader = GGUFReader(path)
    assert found.bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert sum(found.elements.values()) == sum(int(tensor.n_elements) for tensor in reader.tensors)
    context = reader.get_field("llama.context_length")
    assert context
    assert found.fields["llama.context_length"] == context.contents()
    assert found.lengths["tokenizer.ggml.tokens"] == 256 + len(written.SPECIAL) + 3
    assert found.lengths["tokenizer.chat_template"] == len(written.CHAT)
