import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hub.testing import RunningHub

Loaded = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def loaded(session_hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("hf")
    environment = {**os.environ, **session_hub.environment, "HF_HOME": str(folder)}
    script = Path(__file__).with_name("load_all.py")
    session_hub.forget()
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    files = [request.path for request in session_hub.requests if "/resolve/" in request.path]
    assert files
    # All of them at the commit, except requests whose client was not given one.
    assert not [path for path in files if "/resolve/main/" in path and "remote" not in path]
    return json.loads(done.stdout)


@pytest.mark.long
def test_every_good_model_loads_at_its_commit_and_answers_finite_numbers(loaded: Loaded):
    finite = [model["finite"] for model in loaded.values() if "finite" in model]
    assert finite == [True] * 6


@pytest.mark.long
def test_the_labels_of_a_model_are_preserved(loaded: Loaded):
    assert loaded["lilypad/tiny-text-classification"]["labels"] == ["NEGATIVE", "POSITIVE"]
    assert loaded["lilypad/tiny-image-classification"]["labels"] == ["frog", "lily pad", "pond"]


@pytest.mark.long
def test_the_generator_continues_any_text_and_has_a_chat_template(loaded: Loaded):
    generator = loaded["lilypad/tiny-text-generation"]
    assert generator["text"].startswith("the frog loved a film, 7 times: 蛙")
    assert generator["chat"] == "user: hello\nassistant: "


@pytest.mark.long
def test_remote_code_runs_only_for_a_caller_who_trusts_it(loaded: Loaded):
    assert loaded["remote code"] == {"refused": True, "ran": True}


def test_every_good_model_is_small(api: HfApi):
    for name in ("text-classification", "text-generation", "image-classification"):
        assert api.model_info(f"lilypad/tiny-{name}").used_storage < 2_000_000
