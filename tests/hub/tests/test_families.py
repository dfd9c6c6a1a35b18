import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub.testing import RunningHub
from huggingface_hub import HfApi

Loaded = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def loaded(session_hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    environment = {
        **os.environ,
        **session_hub.environment,
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
    }
    script = Path(__file__).with_name("load_all.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def test_every_good_model_loads_at_its_commit_and_answers_finite_numbers(loaded: Loaded):
    assert len(loaded) == 6
    assert all(model["commit"] and model["finite"] for model in loaded.values())


def test_labels_come_through(loaded: Loaded):
    assert loaded["lilypad/tiny-text-classification"]["labels"] == ["NEGATIVE", "POSITIVE"]
    assert loaded["lilypad/tiny-image-classification"]["labels"] == ["frog", "lily pad", "pond"]


def test_the_generator_continues_any_text_and_has_a_chat_template(loaded: Loaded):
    generator = loaded["lilypad/tiny-text-generation"]
    assert generator["text"].startswith("the frog loved a film, 7 times: 蛙")
    assert generator["chat"] == "user: hello\nassistant: "


def test_every_good_model_is_small(api: HfApi):
    for name in ("text-classification", "text-generation", "image-classification"):
        assert api.model_info(f"lilypad/tiny-{name}").used_storage < 2_000_000
