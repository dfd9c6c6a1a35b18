"""Brings a model to this machine: `python -m benchmarker.worker.fetch`, a child process.

It alone has the token. Only weights in safetensors and what describes them
are fetched, at a commit, which names their content for ever.
"""

import re
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from benchmarker.worker.child import answer_questions

COMMIT = re.compile(r"[0-9a-f]{40}")
# No pickles, no code.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.bpe"]
# No module names one; if one did, its files would not be complete, and it would fail.
PICKLES = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.py"]
# Copies for other runtimes.
UNWANTED = ["onnx/*", "openvino/*", "original/*", "*.onnx*"]


def fetch(question: dict[str, Any]) -> dict[str, Any]:
    """`{id, commit, files?}` to `{folder}`, or `{failed, reason}`.

    `files` are those that a module names; without them, what may be measured is fetched.
    """
    if not COMMIT.fullmatch(question["commit"]):
        return {"failed": "the commit is not 40 hexadecimal digits", "reason": "commit"}
    try:
        folder = snapshot_download(
            question["id"],
            revision=question["commit"],
            allow_patterns=question.get("files") or WANTED,
            ignore_patterns=PICKLES if question.get("files") else UNWANTED,
            etag_timeout=10,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        return {"failed": f"the model could not be fetched: {first}", "reason": "hub"}
    return {"folder": folder}


if __name__ == "__main__":
    answer_questions(fetch)
