"""The choice of a GGUF file by the names of a repository's files."""

import sys
from pathlib import Path

import pytest

from common.errors import InvalidRequest, ModelRefused
from generator import gguf_files
from generator.description import Description

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

LISTED = [
    (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "BF16/m-BF16-00001-of-00001.gguf"], 1),
    (["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf"], 1),
    (["m-f16.gguf", "m-Q8_0.gguf"], 1),
    (["m.fp16.gguf", "m.q5_k_m.gguf"], 1),
    (["mmproj-m-Q4_K_M.gguf", "m-imatrix-Q4_K_M.gguf", "m-Q2_K.gguf"], 2),
    (["odd-name.gguf", "m-IQ1_S.gguf"], 0),  # neither is preferred, so that the smaller is taken
    (["folder/m-Q4_K_M.gguf", "m-Q4_K_M.gguf"], 1),
    (["Phi-3-mini-4k-instruct-fp16.gguf", "Phi-3-mini-4k-instruct-q4.gguf"], 1),
    (["m-F32.gguf", "m-Q4_K.gguf"], 1),
    (["m-Q8_0.gguf", "m-Q4_K_M_v2.gguf"], 1),
    (["m-Q8_0.gguf", "m-Q4_0_4_4.gguf"], 0),  # packed for one processor: llama.cpp dropped it
    (["m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"], 1),  # the second part is missing
    (["m-Q4_K_M-00001-of-00099.gguf", "m-Q8_0.gguf"], 1),
]


def described(names: list[str]) -> Description:
    files = [
        {"rfilename": name, "size": size, "blobId": fake_hub.BLOB}
        for size, name in enumerate(names, 100)
    ]
    return Description.model_validate({"id": "a/b", "sha": fake_hub.COMMIT, "siblings": files})


@pytest.mark.parametrize(("names", "chosen"), LISTED)
def test_a_module_runs_the_gguf_file_that_the_documented_rule_selects(
    names: list[str], chosen: int
) -> None:
    found = gguf_files.choose(described(names), None)
    assert [sibling.rfilename for sibling in found] == [names[chosen]]


def test_a_file_named_by_the_caller_is_used_even_if_its_name_looks_like_a_part() -> None:
    name = "Llama-3-8B-Q4_K_M-imatrix.gguf"
    [found] = gguf_files.choose(described([name]), name)
    assert found.rfilename == name
    with pytest.raises(ModelRefused, match=r"parts of GGUF models only.* or options.file with"):
        gguf_files.choose(described([name]), None)


def test_a_gguf_file_with_an_unsupported_name_is_refused_for_its_name() -> None:
    fault = "must have letters, digits"
    with pytest.raises(ModelRefused, match=fault):
        gguf_files.choose(described(["My Model.gguf", "mmproj.gguf"]), None)
    with pytest.raises(InvalidRequest, match=fault):
        gguf_files.choose(described(["m.GGUF"]), "m.GGUF")


def test_a_file_name_with_zero_or_too_many_parts_is_refused_with_the_valid_range() -> None:
    for count in (0, 65):
        name = f"m-00001-of-{count:05}.gguf"
        with pytest.raises(ModelRefused, match=f"is in {count} parts; 1 to 64 are taken"):
            gguf_files.choose(described([name]), name)
