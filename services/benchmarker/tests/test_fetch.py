"""Downloads of models from a Hub that redirects or fails."""

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from benchmarker.worker import disk
from benchmarker.worker.cache import FETCH
from benchmarker.worker.child import started
from benchmarker.worker.process import Failed
from hub.app import MEMBER_TOKEN
from hub.testing import RunningHub

MODEL = "lilypad/tiny-text-classification"


async def failure(hub: RunningHub, folder: Path, mode: str, **fault: Any) -> str:
    """Fetch a model from a faulty Hub, and return the failure's message."""
    commit = HfApi(endpoint=hub.url).model_info(MODEL).sha
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
    with hub.faults(mode, **fault):
        async with started(FETCH, environment) as child:
            with pytest.raises(Failed) as failed:
                await child.request(id=MODEL, commit=commit)
    assert failed.value.reason == "hub"
    return str(failed.value)


@pytest.mark.parametrize("requested", [{"path": "/api/"}, {"path": "/resolve/", "method": "GET"}])
async def test_a_redirect_to_an_internal_address_is_not_followed(hub, tmp_path, requested) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inner:
        inner.settimeout(0)
        target = f"http://127.0.0.1:{inner.getsockname()[1]}/secret"
        message = await failure(hub, tmp_path, "redirect", to=target, **requested)
        with pytest.raises(BlockingIOError):  # no connection was made
            inner.accept()
    assert message == "the model could not be fetched: the Hub redirects to another host"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"mode": "status", "status": 404, "path": "/resolve/"}, "the Hub answered 404"),
        ({"mode": "drop", "path": "/resolve/"}, "the Hub cannot be reached"),
    ],
)
async def test_a_failed_download_names_no_address_of_the_hub(hub, tmp_path, fault, reason) -> None:
    message = await failure(hub, tmp_path, **fault)
    assert message == f"the model could not be fetched: {reason}"


@pytest.mark.parametrize("model", ["lilypad/tiny-gated", "lilypad/tiny-private"])
async def test_a_model_made_private_since_is_not_read_with_the_operators_token(
    hub, tmp_path, model
) -> None:
    commit = HfApi(endpoint=hub.url, token=MEMBER_TOKEN).model_info(model).sha
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    async with started(FETCH, {**environment, "HF_TOKEN": MEMBER_TOKEN}) as child:
        # Nor from the cache: the operator had listed the model, and has removed it again.
        assert (await child.request(id=model, commit=commit))["folder"]
        with pytest.raises(Failed, match="private or gated meanwhile"):
            await child.request(id=model, commit=commit, open=True)


class Files:
    """A few files of a model, listed like in a manifest."""

    def __init__(self, hub: RunningHub, model: str, *paths: str) -> None:
        info = HfApi(endpoint=hub.url).model_info(model, files_metadata=True)
        self.id, self.commit = model, info.sha
        self.files = [
            {
                "path": sibling.rfilename,
                "size": sibling.size,
                "sha256": sibling.lfs.sha256 if sibling.lfs else None,
                "blob": None if sibling.lfs else sibling.blob_id,
            }
            for sibling in info.siblings
            if sibling.rfilename in paths
        ]
        self.size = sum(file["size"] for file in self.files)

    @property
    def question(self) -> dict[str, Any]:
        return {"id": self.id, "commit": self.commit, "files": self.files}


async def test_only_the_files_in_the_manifest_are_fetched(hub, tmp_path) -> None:
    named = Files(hub, MODEL, "config.json", "model.safetensors")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    async with started(FETCH, environment) as child:
        folder = Path((await child.request(**named.question))["folder"])
        assert {path.name for path in folder.rglob("*")} == {"config.json", "model.safetensors"}
        for name in ("config.json", "model.safetensors"):  # one named by git, one by SHA-256
            content = (folder / name).read_bytes()
            (folder / name).resolve().write_bytes(content[:-1] + b"?")
            with pytest.raises(Failed, match=f"{name} differs from its digest"):
                await child.request(**named.question)
            await child.request(**named.question)
            assert (folder / name).read_bytes() == content


async def test_the_least_recently_used_model_not_in_use_is_evicted(hub, tmp_path) -> None:
    tasks = ("text-classification", "fill-mask", "feature-extraction", "text-generation")
    models = [Files(hub, f"lilypad/tiny-{t}", "config.json", "model.safetensors") for t in tasks]
    cache = tmp_path / "hub"
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    async with started(FETCH, environment) as child:

        async def fetch(model: Files, room: int) -> Path:
            with disk.in_use(cache, model.id, model.commit):
                answer = await child.request(**model.question, budget=room)
            return Path(answer["folder"])

        plenty = 3 * sum(model.size for model in models)
        held, oldest, newer = [await fetch(model, plenty) for model in models[:3]]
        with disk.in_use(cache, models[0].id, models[0].commit):
            newest = await fetch(models[3], disk._size([cache]) + models[3].size - 1)
            there = [folder.exists() for folder in (held, oldest, newer, newest)]
            assert there == [True, False, True, True]
            assert not list((oldest.parents[1] / "blobs").iterdir())
            with pytest.raises(Failed, match="models in use take the worker's disk") as failed:
                await fetch(models[1], models[1].size)
            assert failed.value.reason == disk.BUSY
            assert held.exists()
        with pytest.raises(Failed, match="the model is too large") as failed:
            await fetch(models[1], models[1].size - 1)
        assert failed.value.reason == "disk"
