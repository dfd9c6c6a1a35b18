"""Download of a model: `python -m benchmarker.worker.fetch`, a child process.

It alone has the token. It fetches the files that the generator names, at a commit, whose content
never changes, and compares them with their digests before anything reads them.
"""

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, model_info, set_client_factory, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from benchmarker.worker import disk
from benchmarker.worker.process import answer_questions
from common.contracts.address import COMMIT
from common.contracts.hub import STORAGE_HOST

HASHED_AT_ONCE = 4
# Files fetched for a job that names none, which an earlier version has queued.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.bpe"]
# Never fetched, except to be converted in a sandbox, as the module's image does when it is built.
PICKLES = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.py"]
# Copies for other runtimes.
UNWANTED = ["onnx/*", "openvino/*", "original/*", "*.onnx*"]
PUBLIC = "https://huggingface.co"


class RefusedHost(OSError):
    """A redirect of the Hub to a host that is not its own."""


# Set with the first such redirect: the library's own errors do not keep their cause.
redirected = threading.Event()


class WrongContent(OSError):
    """A file that differed from its digest, and was deleted."""


def fetch(question: dict[str, Any]) -> dict[str, Any]:
    """Fetch a model's files; answer with `{folder}` or a failure.

    The question is `{id, commit, files, open?, cache?, others?, budget?}`.

    `files` are those that the manifest names; None in a job of an earlier version.
    `open` says that everybody could read the model when the run was accepted: one that was closed
    since is not read with the operator's token, nor from the cache. The last three are those of
    `disk.room`.
    """
    os.umask(0o022)  # a confined child, which may be another user, reads the files
    id, commit = question["id"], question["commit"]
    if not COMMIT.fullmatch(commit):
        return {"failed": "the commit is not 40 hexadecimal digits", "reason": "commit"}
    redirected.clear()
    try:
        if question.get("open") and os.environ.get("HF_TOKEN"):
            info = model_info(id, revision=commit, timeout=10)
            if info.private or info.gated:
                return {"failed": "the model was made private or gated meanwhile", "reason": "hub"}
        named = question.get("files") or list_files(id, commit)
        files = [
            file for file in named if file.get("becomes") or not matches(path_of(file), PICKLES)
        ]
        folder = bring(id, commit, files, question)
        check_digests(folder, files)
    except disk.TooLarge as error:
        return {"failed": f"the model is too large: {error}", "reason": "disk"}
    except disk.InUse as error:
        return {"failed": str(error), "reason": disk.BUSY}
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        return {"failed": f"the model could not be fetched: {explain(error)}", "reason": "hub"}
    return {"folder": str(folder)}


def path_of(file: dict[str, Any]) -> str:
    return str(file["path"])


def list_files(id: str, commit: str) -> list[dict[str, Any]]:
    """List the files on the Hub that a measurement may need."""
    siblings = model_info(id, revision=commit, files_metadata=True, timeout=10).siblings or []
    listed = [
        {
            "path": sibling.rfilename,
            "size": sibling.size or 0,
            "sha256": sibling.lfs.sha256 if sibling.lfs else None,
            "blob": None if sibling.lfs else sibling.blob_id,
        }
        for sibling in siblings
    ]
    return [
        file
        for file in listed
        if matches(path_of(file), WANTED) and not matches(path_of(file), UNWANTED)
    ]


def matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def bring(id: str, commit: str, files: list[dict[str, Any]], question: dict[str, Any]) -> Path:
    """Fetch the missing files of a model and return its folder."""
    cache = Path(constants.HF_HUB_CACHE)
    repository = cache / repo_folder_name(repo_id=id, repo_type="model")
    folder = repository / "snapshots" / commit
    missing = [file for file in files if not (folder / file["path"]).exists()]
    if missing:
        shared = Path(question.get("cache") or cache)
        others = map(Path, question.get("others") or ())
        needed = sum(file["size"] for file in missing)
        with disk.room(shared, others, needed, question.get("budget")):
            snapshot_download(
                id, revision=commit, allow_patterns=[path_of(f) for f in files], etag_timeout=10
            )
    return folder


def check_digests(folder: Path, files: list[dict[str, Any]]) -> None:
    """Compare each file with its digest; delete one that differs, and raise WrongContent."""

    def check(file: dict[str, Any]) -> None:
        path = folder / file["path"]
        with path.open("rb") as content:
            if file.get("sha256"):
                wanted, digest = file["sha256"], hashlib.file_digest(content, "sha256")
            else:  # its git blob id
                wanted = file["blob"]
                header = b"blob %d\0" % path.stat().st_size
                digest = hashlib.file_digest(content, partial(hashlib.sha1, header))
        if digest.hexdigest() != wanted:
            path.resolve().unlink()
            path.unlink()
            raise WrongContent(0, f"{file['path']} differs from its digest")

    with ThreadPoolExecutor(HASHED_AT_ONCE) as threads:
        list(threads.map(check, files))


def explain(error: BaseException) -> str:
    """Explain why a download failed, without the addresses in the library's errors."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if redirected.is_set():
        return "the Hub redirects to another host"
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return f"the Hub answered {cause.response.status_code}"
    if any(isinstance(cause, httpx2.HTTPError) for cause in causes):
        return "the Hub cannot be reached"
    if isinstance(error, LocalEntryNotFoundError):
        return "the Hub cannot be reached"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def client() -> httpx2.Client:
    """Return a client that follows redirects to the Hub's own hosts only."""
    home = httpx2.URL(os.environ.get("HF_ENDPOINT") or PUBLIC)

    def check(request: httpx2.Request) -> None:
        url = request.url
        if (url.scheme, url.host, url.port) == (home.scheme, home.host, home.port):
            return
        storage = (url.scheme, url.port) == ("https", None) and STORAGE_HOST.fullmatch(url.host)
        if str(home).rstrip("/") != PUBLIC or not storage:
            redirected.set()
            raise RefusedHost

    return httpx2.Client(event_hooks={"request": [check]}, follow_redirects=True, timeout=60)


if __name__ == "__main__":
    set_client_factory(client)
    answer_questions(fetch)
