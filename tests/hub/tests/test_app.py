import hashlib
from functools import cache
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from hub.app import MEMBER_TOKEN, STRANGER_TOKEN
from hub.misfits import HOSTILE
from hub.repository import git_object
from hub.testing import RunningHub

CLASSIFIER = "lilypad/tiny-text-classification"
WEIGHTS = "model.safetensors"


def test_a_document_has_the_fields_of_the_real_hub(api: HfApi):
    info = api.model_info(CLASSIFIER, files_metadata=True, securityStatus=True)
    assert len(info.sha) == 40
    assert (info.id, info.author, info.modelId) == (CLASSIFIER, "lilypad", CLASSIFIER)
    assert (info.private, info.gated, info.disabled) == (False, False, False)
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    assert "license:apache-2.0" in info.tags
    assert info.card_data.license == "apache-2.0"
    assert info.config["architectures"] == ["BertForSequenceClassification"]
    assert info.config["model_type"] == "bert"
    assert info.transformers_info.auto_model == "AutoModelForSequenceClassification"
    assert info.transformers_info.processor == "AutoTokenizer"
    assert info.security_repo_status == {"scansDone": True, "filesWithIssues": []}
    assert info.used_storage == sum(file.size for file in info.siblings)
    assert info.last_modified is not None


def test_only_requested_fields_are_expanded(api: HfApi):
    info = api.model_info(CLASSIFIER, expand=["safetensors", "gated"])
    assert info.safetensors.total > 0
    assert info.gated is False
    assert info.siblings is None


def test_a_snapshots_files_have_the_sizes_and_hashes_of_the_document(api: HfApi, tmp_path: Path):
    info = api.model_info(CLASSIFIER, files_metadata=True)
    folder = Path(api.snapshot_download(CLASSIFIER, cache_dir=tmp_path))
    assert folder.name == info.sha
    for file in info.siblings:
        content = (folder / file.rfilename).read_bytes()
        assert len(content) == file.size
        if file.lfs:
            assert hashlib.sha256(content).hexdigest() == file.lfs.sha256
        else:
            assert git_object("blob", content) == file.blob_id
    assert [file.rfilename for file in info.siblings if file.lfs] == [WEIGHTS]


def test_a_branch_and_its_commit_name_the_same_revision(api: HfApi):
    refs = {ref.name: ref.target_commit for ref in api.list_repo_refs(CLASSIFIER).branches}
    assert refs.keys() == {"main", "v1"}
    for branch, commit in refs.items():
        assert api.model_info(CLASSIFIER, revision=branch).sha == commit
        assert api.model_info(CLASSIFIER, revision=commit).sha == commit
    assert refs["main"] != refs["v1"]


def test_a_moved_branch_shows_the_new_commit_and_the_old_one_stays_readable(
    hub: RunningHub, api: HfApi
):
    before = api.model_info(CLASSIFIER).sha
    other = api.model_info(CLASSIFIER, revision="v1").sha
    hub.move(CLASSIFIER, "main", other)
    try:
        assert api.model_info(CLASSIFIER).sha == other
        assert api.model_info(CLASSIFIER, revision=before).sha == before
    finally:
        hub.move(CLASSIFIER, "main", before)


def test_a_tree_lists_files_and_folders(api: HfApi):
    repo = "lilypad/tiny-sentence-similarity"
    top = {item.path for item in api.list_repo_tree(repo)}
    everything = {item.path for item in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert {"1_Pooling", "modules.json"} <= top
    assert everything - top == {"1_Pooling/config.json"}
    (inside,) = api.list_repo_tree(repo, "1_Pooling")
    assert inside.path == "1_Pooling/config.json"
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(repo, "elsewhere"))


def test_a_long_tree_is_paginated(hub: RunningHub, api: HfApi):
    tree = list(api.list_repo_tree("lilypad/too-big", revision="many-shards", recursive=True))
    assert sum(item.path.endswith(".safetensors") for item in tree) == 1_500
    assert len(hub.requests) == 2


def test_information_about_paths_omits_missing_files(api: HfApi):
    (file,) = api.get_paths_info(CLASSIFIER, [WEIGHTS, "nothing.txt"])
    assert file.lfs.size == file.size


def test_a_large_file_is_redirected_to_a_signed_address(hub: RunningHub, api: HfApi):
    url = hf_hub_url(CLASSIFIER, WEIGHTS, endpoint=hub.url)
    first = httpx2.head(url)
    info = api.model_info(CLASSIFIER, files_metadata=True)
    (file,) = (file for file in info.siblings if file.lfs)
    assert first.status_code == 302
    assert first.headers["X-Repo-Commit"] == info.sha
    assert first.headers["X-Linked-Size"] == str(file.size)
    assert first.headers["X-Linked-ETag"] == f'"{file.lfs.sha256}"'
    location = httpx2.URL(url).join(first.headers["Location"])
    assert httpx2.head(location).headers["Content-Length"] == str(file.size)
    assert httpx2.get(location.copy_remove_param("Signature")).status_code == 403


def test_a_signed_address_needs_no_token(hub: RunningHub):
    url = hf_hub_url("lilypad/tiny-private", WEIGHTS, endpoint=hub.url)
    redirect = httpx2.head(url, headers={"Authorization": f"Bearer {MEMBER_TOKEN}"})
    location = httpx2.URL(url).join(redirect.headers["Location"])
    assert httpx2.get(location).status_code == 200


@pytest.mark.parametrize("filename", ["config.json", WEIGHTS])
def test_the_hub_client_reads_a_files_commit_digest_and_size(
    hub: RunningHub, api: HfApi, filename: str
):
    info = api.model_info(CLASSIFIER, files_metadata=True)
    (file,) = (file for file in info.siblings if file.rfilename == filename)
    read = get_hf_file_metadata(hf_hub_url(CLASSIFIER, filename, endpoint=hub.url), token=False)
    assert read.commit_hash == info.sha
    assert read.etag == (file.lfs.sha256 if file.lfs else file.blob_id)
    assert read.size == file.size
    assert read.xet_file_data is None


def test_an_unchanged_file_is_not_sent_again(hub: RunningHub, api: HfApi):
    for _ in range(2):
        api.hf_hub_download(CLASSIFIER, WEIGHTS)
    bodies = [request for request in hub.requests if request.method == "GET"]
    assert [request.path.split("/")[1] for request in bodies] == ["cdn"]


@given(first=st.integers(0, 400_000), last=st.integers(0, 400_000))
@settings(max_examples=40)
def test_a_range_request_gets_its_slice_of_the_file_or_a_416(
    session_hub: RunningHub, first: int, last: int
):
    url = hf_hub_url(CLASSIFIER, WEIGHTS, endpoint=session_hub.url)
    content = whole(url)
    headers = {"Range": f"bytes={first}-{last}"}
    answer = session_hub.client.get(url, headers=headers, follow_redirects=True)
    expected = content[first : last + 1]
    assert answer.status_code == (206 if expected else 416)
    if expected:
        end = first + len(expected) - 1
        assert answer.content == expected
        assert answer.headers["Content-Range"] == f"bytes {first}-{end}/{len(content)}"
    else:
        assert answer.headers["Content-Range"] == f"bytes */{len(content)}"


def test_a_range_may_omit_its_start_or_its_end(hub: RunningHub):
    url = hf_hub_url(CLASSIFIER, "config.json", endpoint=hub.url)
    assert httpx2.get(url, headers={"Range": "bytes=-10"}).content == whole(url)[-10:]
    assert httpx2.get(url, headers={"Range": "bytes=10-"}).content == whole(url)[10:]


def test_parameters_are_counted_equally_by_header_document_and_file(api: HfApi):
    metadata = api.get_safetensors_metadata(CLASSIFIER)
    assert metadata.parameter_count == api.model_info(CLASSIFIER).safetensors.parameters
    with safe_open(api.hf_hub_download(CLASSIFIER, WEIGHTS), framework="np") as weights:
        shapes = [weights.get_tensor(name).size for name in weights.keys()]  # noqa: SIM118 - no dict
    assert metadata.parameter_count == {"F32": sum(shapes)}


def test_every_answer_states_the_remaining_rate_limit(hub: RunningHub):
    url = f"{hub.url}/api/models/{CLASSIFIER}"
    first, second = (parse_ratelimit_headers(httpx2.get(url).headers) for _ in range(2))
    assert first.resource_type == "api"
    assert first.limit > first.remaining
    assert first.window_seconds == 300
    assert second.remaining < first.remaining or second.reset_in_seconds > first.reset_in_seconds
    file = httpx2.get(hf_hub_url(CLASSIFIER, "config.json", endpoint=hub.url))
    assert parse_ratelimit_headers(file.headers).resource_type == "resolvers"


@pytest.mark.parametrize(("token", "status"), [(False, 401), (MEMBER_TOKEN, 404)])
def test_an_unknown_repository_is_not_found(api: HfApi, token: str | bool, status: int):
    with pytest.raises(RepositoryNotFoundError) as refused:
        api.model_info("lilypad/nothing", token=token)
    assert refused.value.response.status_code == status


@pytest.mark.parametrize("revision", ["0" * 40, "refs/pr/1", *HOSTILE])
def test_an_unknown_revision_is_not_found(api: HfApi, revision: str):
    with pytest.raises(RevisionNotFoundError):
        api.model_info(CLASSIFIER, revision=revision)


def test_an_unknown_file_is_not_found_and_the_commit_is_named(api: HfApi):
    with pytest.raises(RemoteEntryNotFoundError) as refused:
        api.hf_hub_download(CLASSIFIER, "nothing.txt")
    assert refused.value.response.headers["X-Repo-Commit"] == api.model_info(CLASSIFIER).sha
    assert not api.file_exists(CLASSIFIER, "nothing.txt")


def test_an_unknown_token_is_refused_even_for_public_models(api: HfApi):
    with pytest.raises(HfHubHTTPError) as refused:
        api.model_info(CLASSIFIER, token="hf_wrong")
    assert refused.value.response.status_code == 401
    assert "Invalid credentials" in str(refused.value)


@pytest.mark.parametrize(("token", "status"), [(False, 401), (STRANGER_TOKEN, 403)])
def test_a_gated_model_shows_its_metadata_but_not_its_files(
    api: HfApi, token: str | bool, status: int
):
    assert api.model_info("lilypad/tiny-gated", token=token).gated == "manual"
    with pytest.raises(GatedRepoError) as refused:
        api.hf_hub_download("lilypad/tiny-gated", "config.json", token=token, dry_run=True)
    assert refused.value.response.status_code == status
    with pytest.raises(GatedRepoError):
        api.parse_safetensors_file_metadata("lilypad/tiny-gated", WEIGHTS, token=token)


def test_a_member_can_read_gated_and_private_models(api: HfApi):
    for repo in ("lilypad/tiny-gated", "lilypad/tiny-private"):
        assert Path(api.hf_hub_download(repo, "config.json", token=MEMBER_TOKEN)).exists()
    assert api.whoami(token=MEMBER_TOKEN)["name"] == "member"


@pytest.mark.parametrize("token", [False, STRANGER_TOKEN])
def test_a_private_model_looks_missing(api: HfApi, token: str | bool):
    def refusal(repo: str) -> tuple[int, object]:
        with pytest.raises(RepositoryNotFoundError) as refused:
            api.model_info(repo, token=token)
        return refused.value.response.status_code, refused.value.response.json()

    assert refusal("lilypad/tiny-private") == refusal("lilypad/nothing")


def test_a_disabled_model_is_refused(api: HfApi):
    with pytest.raises(DisabledRepoError):
        api.model_info("lilypad/tiny-disabled", token=MEMBER_TOKEN)


@pytest.mark.parametrize(
    "former", ["frog/tiny-text-classification", "tiny-text-classification", CLASSIFIER.upper()]
)
def test_a_renamed_model_is_found_under_its_new_name(hub: RunningHub, api: HfApi, former: str):
    assert api.model_info(former, files_metadata=True).id == CLASSIFIER
    assert Path(api.hf_hub_download(former, WEIGHTS)).exists()
    moved = httpx2.get(f"{hub.url}/api/models/{former}?blobs=true")
    assert moved.status_code == 307
    assert moved.headers["Location"] == f"/api/models/{CLASSIFIER}?blobs=true"


@pytest.mark.parametrize("name", [name.replace("/", "_") for name in HOSTILE])
def test_a_file_of_any_name_is_served(api: HfApi, name: str):
    assert Path(api.hf_hub_download("lilypad/tiny-hostile-names", name)).read_text() == "nothing\n"


@cache
def whole(url: str) -> bytes:
    return httpx2.get(url, follow_redirects=True).content
