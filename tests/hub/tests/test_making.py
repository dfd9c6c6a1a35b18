import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hub.catalogue import MODELS
from hub.making import make_missing, quiet
from hub.repository import read_repository
from hub.testing import RunningHub, default_models_dir

# One made without torch, and one made with it.
QUICK, SLOW = "lilypad/tiny-gguf", "lilypad/tiny-text-classification"


@pytest.mark.long
def test_models_rebuilt_in_another_process_have_the_same_commits(
    session_hub: RunningHub, tmp_path: Path
):
    # One per module of makers: state shared by makers could differ between processes.
    models = list({model.maker.partition(":")[0]: model for model in reversed(MODELS)}.values())
    subprocess.run(
        [sys.executable, "-m", "hub.making", tmp_path, *(model.id for model in models)],
        env={**quiet(), "PYTHONHASHSEED": "7"},
        check=True,
    )
    known = make_missing(MODELS, default_models_dir())
    for model in models:
        anew = read_repository(model, tmp_path / model.id)
        assert anew.branches == read_repository(model, known[model.id]).branches


def test_models_are_made_once(session_hub: RunningHub):
    before = {path: path.stat().st_mtime_ns for path in default_models_dir().glob("*/*")}
    folders = make_missing(MODELS, default_models_dir())
    assert {path: path.stat().st_mtime_ns for path in folders.values()}.items() <= before.items()


def test_a_model_is_made_on_its_first_request(tmp_path: Path):
    second = "lilypad/tiny-reinforcement-learning"
    with RunningHub(tmp_path, first=[QUICK]) as hub:
        assert [folder.name.rpartition("-")[0] for folder in tmp_path.glob("*/*")] == [
            QUICK.partition("/")[2]
        ]
        api = HfApi(endpoint=hub.url, token=False)
        assert api.model_info(second).pipeline_tag == "reinforcement-learning"
        assert "policy.zip" in api.list_repo_files(second)
    assert len(list(tmp_path.glob("*/*"))) == 2


def test_every_model_id_of_the_test_hub_is_unique():
    names = [name.lower() for model in MODELS for name in (model.id, *model.former_ids)]
    assert len(names) == len(set(names))


def test_an_interrupted_start_leaves_no_incomplete_model(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "hub", "--models-dir", tmp_path, "--first", QUICK, SLOW],
        env={**os.environ, **quiet()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert first.startswith(f"[1/2] made {QUICK}")
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_concurrent_starts_serve_the_same_models(tmp_path: Path):
    hubs = [RunningHub(tmp_path, first=[QUICK]) for _ in range(2)]
    with ThreadPoolExecutor() as pool:  # a Hub ends with the thread that started it
        try:
            list(pool.map(RunningHub.start, hubs))
            apis = [HfApi(endpoint=hub.url, token=False) for hub in hubs]
            assert len({api.model_info(QUICK).sha for api in apis}) == 1
        finally:
            for hub in hubs:
                hub.stop()
    assert not list(tmp_path.glob(".making-*"))
