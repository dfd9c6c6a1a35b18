"""Models with just the files that real repositories have, run with just what their modules pin.

Saving a model anew adds files that hide what is missing, and the environment of these tests has
more packages than any module installs. Modules that pin the same run in one process.
"""

import base64
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from benchmarker.worker import packages
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, made, without_network
from test_every_task import follow, less, variables
from test_inference import close, to_plain
from test_vision import FRAMES, PICTURE, as_png, as_wav

# Whichever comes first waits for all modules, on a busy machine for ten minutes.
pytestmark = pytest.mark.timeout(1800)

DRIVER = Path(__file__).with_name("driver.py")
TEXTS = ["the frog loved a good film", "she is sad: the network was terrible"]
MASKED = ["a <mask> on the pond", "the frog is not <mask>"]
PICTURES = [as_png(PICTURE), as_png(FRAMES[1])]
SAID = {"max_new_tokens": 5}
# By the model's name: two inputs that are not to be answered alike, and parameters.
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "deberta": (TEXTS, {}),
    "xlm-roberta": (MASKED, {"top_k": 3}),
    "albert": (TEXTS, {"aggregation_strategy": "none"}),
    "llama": (TEXTS, SAID),
    "t5": (TEXTS, SAID),
    "marian": (TEXTS, SAID),
    "biogpt": (TEXTS, SAID),
    "whisper": ([as_wav(), as_wav(faster=3)], {}),
    "sentence-bert": (TEXTS, {}),
    "stable-diffusion": (TEXTS, {"steps": 2, "width": 32, "height": 32}),
    "detr": (PICTURES, {"threshold": 0.0}),
}
# Those that a pipeline of the library itself answers, and how it is called for the same.
BY_THE_LIBRARY: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta": ("text-classification", {"top_k": None}),
    "xlm-roberta": ("fill-mask", {"top_k": 3}),
    "albert": ("token-classification", {}),
    "llama": ("text-generation", {**SAID, "do_sample": False, "return_full_text": False}),
    "biogpt": ("text-generation", {**SAID, "do_sample": False, "return_full_text": False}),
}


@pytest.fixture(scope="module")
def modules(hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return made(hub_process, tmp_path_factory.mktemp("modules"), "lifelike", CASES)


@pytest.fixture(scope="module")
def results(
    modules: dict[str, Built], hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[int, Any]]]:
    """Of each model: what the README's command answers, then two inputs, then the same again."""
    folder = tmp_path_factory.mktemp("readmes")
    (folder / "inputs").mkdir()
    PICTURE.save(folder / "inputs/image.png")
    (folder / "inputs/sound.wav").write_bytes(base64.b64decode(as_wav()))
    asked: dict[str, dict[str, Any]] = {}
    for name, module in modules.items():
        inputs, parameters = CASES[name]
        request = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        twice = [{"REQUEST_B64": base64.b64encode(request).decode()}] * 2
        example = variables(follow(module, folder / name)[1]) | less(module)
        asked[name] = {"app": str(module.app), "runs": [example, *twice]}
    drive([sys.executable, str(DRIVER), "fetch"], asked, HF_ENDPOINT=hub_process.url)
    found = {}
    for number, (pins, names) in enumerate(alike(modules).items()):
        environment = packages.link(pins, folder / f"packages-{number}")
        environment |= {"HF_HUB_OFFLINE": "1", "INPUT_DIR": str(folder / "inputs")}
        command = [*without_network(), *packages.command(str(DRIVER), "run")]
        some = {name: asked[name] for name in names}
        found |= json.loads(drive(command, some, **environment))
    return found


def alike(modules: dict[str, Built]) -> dict[str, list[str]]:
    """Names by what their modules pin."""

    def pins(name: str) -> str:
        return modules[name].files["requirements.txt"]

    return {text: list(names) for text, names in itertools.groupby(sorted(modules, key=pins), pins)}


def drive(command: list[str], asked: dict[str, Any], **environment: str) -> str:
    done = subprocess.run(
        command,
        input=json.dumps(asked),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_it_starts_with_what_it_pins_and_answers_each_input_for_itself(
    name: str, results: dict[str, list[tuple[int, Any]]]
) -> None:
    for code, result in results[name]:
        assert (code, result["status"]) == (0, "success"), result
    example, once, again = (result["outputs"] for _, result in results[name])
    assert len(example) == 1
    assert once == again
    assert once[0] != once[1]


@pytest.mark.parametrize("name", BY_THE_LIBRARY)
def test_it_answers_what_the_library_does(
    name: str, modules: dict[str, Built], results: dict[str, list[tuple[int, Any]]]
) -> None:
    task, given = BY_THE_LIBRARY[name]
    pipeline = transformers.pipeline(task, model=str(modules[name].app / "model"), device="cpu")
    expected = [pipeline(value, **given) for value in CASES[name][0]]
    if task == "text-generation":
        expected = [answers[0] for answers in expected]
    assert close(results[name][1][1]["outputs"], to_plain(expected))
