"""Models laid out like real repositories, run with only the packages of their modules' pins.

Saving a model anew adds files that hide what is missing, and the environment of these tests has
more packages than any module installs. Modules that pin the same run in one process, and these
processes come from one that has loaded what all of them pin.
"""

import base64
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarker.worker import packages
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
from modules import DRIVER, Built, build_modules, drive, without_network
from test_every_task import follow, less, variables
from test_vision import FRAMES, PICTURE, as_png, as_wav, close

# The first test waits until all modules have run, on a busy machine for ten minutes.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

TEXTS = ["the frog loved a good film", "she is sad: the network was terrible"]
MASKED = ["a <mask> on the pond", "the frog is not <mask>"]
PICTURES = [as_png(PICTURE), as_png(FRAMES[1])]
SAID = {"max_new_tokens": 5}
# By model name: two inputs that must get different answers, and parameters.
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "deberta": (TEXTS, {}),
    "xlm-roberta": (MASKED, {"top_k": 3}),
    "albert": (TEXTS, {"aggregation_strategy": "none"}),
    "llama": (TEXTS, {**SAID, "raw": True}),
    "t5": (TEXTS, SAID),
    "marian": (TEXTS, SAID),
    "biogpt": (TEXTS, SAID),
    "whisper": ([as_wav(), as_wav(faster=3)], {}),
    "sentence-bert": (TEXTS, {}),
    "stable-diffusion": (TEXTS, {"steps": 2, "width": 32, "height": 32}),
    "detr": (PICTURES, {"threshold": 0.0}),
}
# Models that one of the library's pipelines can run, with its arguments for the same input.
BY_THE_LIBRARY: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta": ("text-classification", {"top_k": None}),
    "xlm-roberta": ("fill-mask", {"top_k": 3}),
    "albert": ("token-classification", {}),
    "llama": ("text-generation", {**SAID, "do_sample": False, "return_full_text": False}),
    "biogpt": ("text-generation", {**SAID, "do_sample": False, "return_full_text": False}),
}


@pytest.fixture(scope="module")
def modules(hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return build_modules(hub_process, tmp_path_factory.mktemp("modules"), "lifelike", CASES)


@pytest.fixture(scope="module")
def results(
    modules: dict[str, Built], hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Return each model's results: of the README's command, of two inputs, of both again."""
    folder = tmp_path_factory.mktemp("readmes")
    (folder / "inputs").mkdir()
    PICTURE.save(folder / "inputs/image.png")
    (folder / "inputs/sound.wav").write_bytes(base64.b64decode(as_wav()))
    cases: dict[str, dict[str, Any]] = {}
    for name, module in modules.items():
        inputs, parameters = CASES[name]
        request = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        twice = [{"REQUEST_B64": base64.b64encode(request).decode()}] * 2
        example = variables(follow(module, folder / name)[1]) | less(module)
        cases[name] = {"app": str(module.app), "runs": [example, *twice]}
        if name in BY_THE_LIBRARY:
            cases[name]["library"] = (*BY_THE_LIBRARY[name], inputs)
    drive([sys.executable, str(DRIVER), "fetch"], cases, HF_ENDPOINT=hub_process.url)
    pinned = {name: module.files["requirements.txt"] for name, module in modules.items()}
    apart: dict[str, dict[str, Any]] = {}
    for number, pins in enumerate(sorted({*pinned.values()})):
        packages.link(pins, folder / f"packages-{number}")
        some = {name: cases[name] for name in modules if pinned[name] == pins}
        apart[str(folder / f"packages-{number}")] = some
    environment = packages.link(in_all(pinned.values()), folder / "packages")
    environment |= {"HF_HUB_OFFLINE": "1", "INPUT_DIR": str(folder / "inputs")}
    command = [*without_network(), *packages.command(str(DRIVER), "apart")]
    answers: dict[str, dict[str, Any]] = json.loads(drive(command, apart, **environment))
    return answers


def in_all(requirements: Iterable[str]) -> str:
    """Return the pins that all stacks share."""
    first, *rest = (text.splitlines() for text in requirements)
    return "\n".join(line for line in first if all(line in other for other in rest))


@pytest.mark.parametrize("name", CASES)
def test_a_module_runs_with_only_its_pins_and_answers_each_input_separately(
    name: str, results: dict[str, dict[str, Any]]
) -> None:
    for code, result in results[name]["runs"]:
        assert (code, result["status"]) == (0, "success"), result
    example, once, again = (result["outputs"] for _, result in results[name]["runs"])
    assert len(example) == 1
    assert once == again
    assert once[0] != once[1]


@pytest.mark.parametrize("name", BY_THE_LIBRARY)
def test_a_module_gives_the_same_answers_as_the_library(
    name: str, results: dict[str, dict[str, Any]]
) -> None:
    expected = results[name]["library"]
    if BY_THE_LIBRARY[name][0] == "text-generation":
        expected = [answers[0] for answers in expected]
    assert close(results[name]["runs"][1][1]["outputs"], expected)
