"""Fetched models: a cache shared by runs, and private folders for models of one account."""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants

from benchmarker.settings import WorkerSettings
from benchmarker.worker import disk
from benchmarker.worker.child import started
from benchmarker.worker.process import Failed
from common.contracts.measuring import Measurement
from common.errors import Unavailable

FETCH = "benchmarker.worker.fetch"
# Under HF_HOME, where other programs keep models that are not this worker's to evict.
SHARED = "lilypad"
PREFIX = "lilypad-own-"
# A run's children end within moments of its time limit; this is plenty.
MARGIN_S = 600


@asynccontextmanager
async def fetched(
    work: Measurement, settings: WorkerSettings, hub_token: str | None
) -> AsyncIterator[str]:
    """Fetch a model's files at its commit, and yield their folder.

    A model read with its account's token is fetched into a folder that is deleted after the run;
    other models stay in the shared cache.

    Raises:
        Failed: the model could not be fetched, or its account has deleted the token.
        Unavailable: models of other workers take the disk.
    """
    model, shared = work.model, _parent(settings) / SHARED
    environment = {"HF_ENDPOINT": settings.hf_endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment["HF_HUB_DISABLE_XET"] = "1"  # Xet's client would choose its hosts by itself
    if settings.hf_token:
        environment["HF_TOKEN"] = settings.hf_token.get_secret_value()
    if settings.hf_home:
        environment["HF_HOME"] = str(settings.hf_home)
    with ExitStack() as own:
        if work.read_by == "account":
            if hub_token is None:
                raise Failed(
                    "the model is private or gated, and the account's Hub token was deleted;"
                    " store one with PUT /v1/api/account/hub-token and start again",
                    "hub-token",
                )
            environment["HF_TOKEN"] = hub_token
            environment["HF_HUB_CACHE"] = own.enter_context(own_folder(settings))
        else:
            environment["HF_HUB_CACHE"] = str(shared)
            own.enter_context(disk.in_use(shared, model.id, model.commit))
        question: dict[str, Any] = {
            "id": model.id,
            "commit": model.commit,
            "files": _files(work),
            "open": work.read_by == "anybody",
            "cache": str(shared),
            "others": [str(folder) for folder in _parent(settings).glob(f"{PREFIX}*")],
            "budget": settings.max_cache_bytes,
        }
        async with started(FETCH, environment) as child:
            try:
                answer = await child.request(**question)
            except Failed as error:
                if error.reason == disk.BUSY:
                    raise Unavailable(str(error)) from None
                raise
        yield str(answer["folder"])


def _files(work: Measurement) -> list[dict[str, Any]] | None:
    """Return the files that the manifest names; None for a job of an earlier version."""
    manifest = work.trial.files["module.yaml"] if work.trial else work.manifest
    if manifest is None:
        return None
    files: list[dict[str, Any]] = yaml.safe_load(manifest)["model"]["files"]
    return files


@contextmanager
def own_folder(settings: WorkerSettings) -> Iterator[str]:
    """Yield a temporary folder beside the shared cache."""
    parent = _parent(settings)
    parent.mkdir(parents=True, exist_ok=True)
    delete_left_over(settings)
    with tempfile.TemporaryDirectory(
        prefix=PREFIX, dir=parent, ignore_cleanup_errors=True
    ) as folder:
        # A confined child may be another user: it passes through, and lists nothing.
        Path(folder).chmod(0o711)
        yield folder


def delete_left_over(settings: WorkerSettings) -> None:
    """Delete folders older than any run can be, which killed workers left behind."""
    oldest = time.time() - settings.max_run_s - MARGIN_S
    for folder in _parent(settings).glob(f"{PREFIX}*"):
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def _parent(settings: WorkerSettings) -> Path:
    return settings.hf_home or Path(constants.HF_HOME)
