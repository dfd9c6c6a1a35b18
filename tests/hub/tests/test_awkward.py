import pickle
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

from hub.misfits import HOSTILE
from hub.testing import RunningHub


def test_pickled_weights_are_real_and_the_only_weights(api: HfApi):
    info = api.model_info("lilypad/tiny-pickle", securityStatus=True)
    assert info.safetensors is None
    assert "safetensors" not in info.tags
    assert "pytorch" in info.tags
    assert info.security_repo_status["filesWithIssues"] == []
    with pytest.raises(NotASafetensorsRepoError):
        api.get_safetensors_metadata("lilypad/tiny-pickle")
    weights = torch.load(api.hf_hub_download("lilypad/tiny-pickle", "pytorch_model.bin"))
    assert all(torch.isfinite(tensor).all() for tensor in weights["model"].values())


def test_the_malicious_pickle_runs_when_loaded_and_is_listed_in_the_scan(
    api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repo = "lilypad/tiny-malicious-pickle"
    status = api.model_info(repo, securityStatus=True).security_repo_status
    assert status["filesWithIssues"] == [{"path": "pytorch_model.bin", "level": "unsafe"}]
    file = api.hf_hub_download(repo, "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)
    assert not Path("a-pickle-ran").exists()
    torch.load(file, weights_only=False)
    assert Path("a-pickle-ran").exists()


def test_the_document_announces_remote_code(api: HfApi):
    info = api.model_info("lilypad/tiny-remote-code")
    assert "custom_code" in info.tags
    assert info.config["auto_map"]["AutoModelForCausalLM"] == "code.LilyForCausalLM"
    assert info.transformers_info.custom_class == "code.LilyForCausalLM"
    assert "code.py" in {file.rfilename for file in info.siblings}


def test_the_internal_attention_field_is_in_config_json_but_not_in_model_info(api: HfApi):
    repo = "lilypad/tiny-internal-attention"
    config = Path(api.hf_hub_download(repo, "config.json")).read_text()
    assert '"_attn_implementation_internal": "attacker/kernel"' in config
    assert "_attn_implementation_internal" not in str(api.model_info(repo).config)


def test_a_field_missing_from_the_card_is_missing_from_the_document(api: HfApi):
    no_licence = api.model_info("lilypad/tiny-no-licence")
    assert no_licence.card_data.license is None
    assert not any(tag.startswith("license:") for tag in no_licence.tags)
    no_task = api.model_info("lilypad/tiny-no-task")
    assert no_task.card_data.pipeline_tag is None
    assert no_task.pipeline_tag == "text-classification"  # from the architecture, as the Hub does
    bare = api.model_info("lilypad/tiny-card-only")
    assert (bare.pipeline_tag, bare.library_name, bare.config) == (None, None, {})


@pytest.mark.parametrize("branch", ["main", "past-the-end", "not-json"])
def test_weights_with_a_false_header_have_no_metadata(api: HfApi, branch: str):
    repo = "lilypad/tiny-lying-header"
    with pytest.raises((SafetensorsParsingError, ValueError)):
        api.get_safetensors_metadata(repo, revision=branch)
    assert api.model_info(repo, revision=branch).safetensors is None


def test_an_absurd_header_counts_more_parameters_than_there_are_bytes(api: HfApi):
    metadata = api.get_safetensors_metadata("lilypad/tiny-lying-header", revision="absurd")
    assert metadata.parameter_count == {"F32": 2**124}


def test_the_big_model_is_measured_by_its_headers_without_a_download(hub: RunningHub, api: HfApi):
    metadata = api.get_safetensors_metadata("lilypad/too-big")
    assert metadata.parameter_count == {"BF16": 200_000_000_000}
    info = api.model_info("lilypad/too-big", files_metadata=True)
    assert info.safetensors.total == 200_000_000_000
    assert info.used_storage > 400_000_000_000
    assert sum(request.sent for request in hub.requests) < 20_000_000


def test_the_big_model_has_bytes_up_to_its_end(hub: RunningHub):
    url = hf_hub_url("lilypad/too-big", "model-00080-of-00080.safetensors", endpoint=hub.url)
    tail = httpx2.get(url, headers={"Range": "bytes=-100"}, follow_redirects=True)
    assert (tail.status_code, tail.content) == (206, bytes(100))


def test_a_written_gguf_file_can_be_read(api: HfApi):
    info = api.model_info("lilypad/encoder-gguf", files_metadata=True)
    assert info.gguf == {"total": 64 * 512, "architecture": "bert", "context_length": 128}
    assert info.config == {}
    path = Path(api.hf_hub_download("lilypad/encoder-gguf", "tiny-f32.gguf"))
    content = path.read_bytes()
    assert content.startswith(b"GGUF\x03\0\0\0")
    assert len(content) - 4 * info.gguf["total"] < 1_000


def test_hostile_fields_are_served_unchanged(api: HfApi):
    card = api.model_info("lilypad/tiny-hostile-card")
    assert card.card_data.license == " ".join(HOSTILE)
    assert f"license:{' '.join(HOSTILE)}" in card.tags
    assert set(HOSTILE) <= set(card.tags)
    assert "\nRUN id" in api.model_info("lilypad/tiny-hostile-task").pipeline_tag
    config = api.model_info("lilypad/tiny-hostile-config").config
    assert (config["architectures"], config["model_type"]) == ([HOSTILE[0]], HOSTILE[4])
    names = {file.rfilename for file in api.model_info("lilypad/tiny-hostile-names").siblings}
    assert {name.replace("/", "_") for name in HOSTILE} <= names
