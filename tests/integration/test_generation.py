import hashlib
import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hub.testing import RunningHub
from integration.caller import Account, error_of
from lilypad_client import InvalidModelError, LilypadClient
from local.stack import Stack

TASKS = ("text-classification", "text-generation", "feature-extraction", "image-classification")
FILES = {
    "Dockerfile",
    "README.md",
    "lilypad_module.json.tmpl",
    "module.yaml",
    "requirements.txt",
    "run_inference.py",
}


@pytest.fixture(scope="module")
def refused(generous_stack: Stack) -> Iterator[Account]:
    """An account for many refused requests."""
    account = Account(generous_stack.url)
    yield account
    account.http.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_models_address_becomes_a_module(account: Account, task: str) -> None:
    response = account.generate(f"https://huggingface.co/lilypad/tiny-{task}")
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert set(data["files"]) == FILES
    assert data["validation"]["status"] == "passed", data["validation"]
    assert data["model"]["task"] == task
    assert len(data["model"]["commit"]) == 40
    assert (
        yaml.safe_load(data["files"]["module.yaml"])["model"]["commit"] == data["model"]["commit"]
    )


def test_the_alias_without_a_version_answers_the_same(account: Account) -> None:
    body = {"modelUrl": "lilypad/tiny-text-classification"}
    versioned, other = (account.post(f"{prefix}/api/generate", body) for prefix in ("/v1", ""))
    assert versioned.json()["data"] == other.json()["data"]


def test_generated_modules_are_listed_and_regenerated_byte_for_byte(
    stack: Stack, account: Account
) -> None:
    options = {"batchSize": 2, "memory": "8GB"}
    module = account.generate("lilypad/tiny-text-generation", options=options).json()["data"]
    zipped = account.post("/v1/api/download", {"modelUrl": "lilypad/tiny-text-classification"})
    with LilypadClient(account.key, base_url=stack.url) as client:
        # Each replica writes its list within a second.
        while len(listed := list(client.modules.list(page_size=1))) < 2:
            time.sleep(0.1)
        newest, oldest = listed
        assert (newest.kind, newest.model_id) == ("download", "lilypad/tiny-text-classification")
        assert zipped.headers["etag"] == f'"{newest.digest}"'
        assert (oldest.kind, oldest.task, oldest.digest) == (
            "generate",
            "text-generation",
            module["digest"],
        )
        assert oldest.commit == oldest.request.revision == module["model"]["commit"]
        again = client.modules.again(oldest)
        assert (dict(again), again.answer.digest) == (module["files"], module["digest"])
        package = account.post("/v1/api/download", oldest.request.to_dict())
        assert package.headers["etag"] == f'"{oldest.digest}"'
        # Each replica writes its counts within seconds.
        while not (used := list(client.keys.usage())):
            time.sleep(0.1)
    assert 0 < used[0].generate <= 4
    other = Account(stack.url)
    with LilypadClient(other.key, base_url=stack.url) as client:
        assert list(client.modules.list()) == []
    other.http.close()


def test_the_zip_contains_the_same_files_and_is_reproducible(account: Account) -> None:
    body = {"modelUrl": "lilypad/tiny-text-generation", "options": {"batchSize": 4}}
    files = account.post("/v1/api/generate", body).json()["data"]["files"]
    # More often than there are replicas, so that each has made one.
    archives = [account.post("/v1/api/download", body) for _ in range(4)]
    assert {archive.headers["content-type"] for archive in archives} == {"application/zip"}
    assert len({archive.content for archive in archives}) == 1
    etag = archives[0].headers["etag"]
    assert etag == f'"{hashlib.sha256(archives[0].content).hexdigest()}"'
    assert "attachment; filename=" in archives[0].headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(archives[0].content)) as archive:
        unpacked = {Path(name).name: archive.read(name).decode() for name in archive.namelist()}
    assert unpacked == files

    for named in (etag, f'"other", W/{etag}', "*"):
        again = account.post("/v1/api/download", body, headers={"If-None-Match": named})
        assert (again.status_code, again.content) == (304, b"")
        assert "no-store" not in again.headers["cache-control"]


def test_the_python_client_works_as_in_the_reference(
    stack: Stack, account: Account, tmp_path: Path
) -> None:
    with LilypadClient(api_key=account.key, base_url=stack.url) as client:
        files = client.generate_module(
            model_url="https://huggingface.co/lilypad/tiny-text-classification",
            options={"batchSize": 4},
        )
        assert set(files) == FILES
        assert files.validation["status"] == "passed"
        archive = client.download("lilypad/tiny-text-classification", tmp_path / "module.zip")
        assert zipfile.is_zipfile(archive)
        with pytest.raises(InvalidModelError) as caught:
            client.generate_module("lilypad/absent")
    assert caught.value.code == 1001
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://169.254.169.254/", 400),
        ("https://huggingface.co@evil.example/a/b", 400),
        ("https://huggingface.co.evil.example/a/b", 400),
        ("https://huggingface.co\\@evil.example/a/b", 400),
        ("https://huggingface.co:22/a/b", 400),
        ("https://[::ffff:169.254.169.254]/a/b", 400),
        ("https://[64:ff9b::a9fe:a9fe]/a/b", 400),
        ("http://2852039166/a/b", 400),
        ("http://0xa9fea9fe/a/b", 400),
        ("file:///etc/passwd", 400),
        ("https://huggingface\u3002co/a/b", 400),
        ("https://huggingface.co/a/\nb", 400),
        ("https://huggingface.co/a/b/../../c", 400),
        ("https://huggingface.co/lilypad/absent", 404),
    ],
)
def test_an_address_of_no_model_is_refused_without_a_request_to_the_hub(
    refused: Account, hub: RunningHub, url: str, status: int
) -> None:
    before = len(hub.requests)
    response = refused.generate(url)
    assert response.status_code == status, response.text
    assert error_of(response)["code"] == 1001
    assert "Hub" not in response.text or status == 404
    if status == 400:
        assert len(hub.requests) == before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("tiny-pickle", "pickle-only"),
        ("tiny-malicious-pickle", "pickle-only"),
        ("tiny-remote-code", "custom-code"),
        ("tiny-internal-attention", "custom-code"),
        ("encoder-gguf", "gguf-only"),
        ("tiny-gated", "gated"),
        ("tiny-disabled", "disabled"),
        ("tiny-reinforcement-learning", "task"),
        ("tiny-unknown-task", "task"),
        ("too-big", "too-large"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    account: Account, model: str, reason: str
) -> None:
    response = account.generate(f"lilypad/{model}")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (422, 1002), response.text
    assert error["details"]["reason"] == reason
    assert len(error["message"]) > 30, error


def test_a_model_too_large_for_any_provider_is_generated_if_the_caller_accepts_it(
    account: Account,
) -> None:
    answer = account.generate("lilypad/too-big", accept=["too-large"])
    assert answer.status_code == 200, answer.text
    [warning] = [
        warning
        for warning in answer.json()["data"]["validation"]["errors"]
        if "MiB more" in warning
    ]
    assert "GPU memory" in warning
    # A caller cannot accept another author's code.
    for reason in ("custom-code", "pickle-only"):
        refused = account.generate("lilypad/tiny-remote-code", accept=[reason])
        assert (refused.status_code, error_of(refused)["code"]) == (400, 1003)


HOSTILE = [
    '"',
    "'''",
    "\n",
    "\r\nRUN curl evil",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "`id`",
    "\u2028",
    "😀",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["modelUrl", "revision", "memory"])
def test_hostile_text_in_a_request_is_refused(refused: Account, field: str, text: str) -> None:
    body: dict[str, object] = {"modelUrl": "lilypad/tiny-text-classification"}
    if field == "memory":
        body["options"] = {"memory": f"8GB{text}"}
    elif field == "modelUrl":
        # White space around an address is trimmed; inside it is not.
        body["modelUrl"] = f"lilypad/tiny-text-classification{text}x"
    else:
        body["revision"] = f"main{text}"
    response = refused.post("/v1/api/generate", body)
    assert response.status_code == 400, response.text
    assert error_of(response)["code"] in (1001, 1003)


@pytest.mark.parametrize(
    "model", ["tiny-hostile-card", "tiny-hostile-names", "tiny-hostile-config"]
)
def test_a_hostile_card_config_or_file_name_changes_no_instruction(
    account: Account, model: str
) -> None:
    plain = account.generate("lilypad/tiny-text-classification").json()["data"]["files"]
    response = account.generate(f"lilypad/{model}")
    if response.status_code != 200:
        assert error_of(response)["code"] == 1002
        return
    files = response.json()["data"]["files"]
    assert files["Dockerfile"] == plain["Dockerfile"]
    assert files["run_inference.py"] == plain["run_inference.py"]
    assert files["requirements.txt"] == plain["requirements.txt"]
    assert yaml.safe_load(files["module.yaml"])["model"]["id"] == f"lilypad/{model}"


def test_the_default_module_never_runs_a_models_own_code(account: Account) -> None:
    files = account.generate("lilypad/tiny-text-classification").json()["data"]["files"]
    assert "trust_remote_code=True" not in files["run_inference.py"]
    assert "transformers==5" in files["requirements.txt"]
