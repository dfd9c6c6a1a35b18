"""Each supported task as a newcomer tries it: the README's commands, then arbitrary input.

A stand-in for `docker` records its arguments; the module itself is built from its Dockerfile. All
modules of one kind run in one process, since loading the libraries takes most of the time.
"""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from hub import vision
from hub.testing import RunningHub
from models.tags import SERVABLE
from models.tasks import LIBRARIES, rows_of

sys.path.insert(0, str(Path(__file__).parent))
from modules import DRIVER, Built, build_modules, drive, without_network
from test_vision import FRAMES, PICTURE, as_wav

# The first test waits until all modules have run, on a busy machine for ten minutes.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

# Names of the tiny models whose tag has rows in several libraries.
NAMED = {
    ("text-generation", "llama.cpp"): "gguf",
    ("sentence-similarity", "llama.cpp"): "gguf-similarity",
    ("feature-extraction", "llama.cpp"): "gguf-features",
    ("text-ranking", "llama.cpp"): "gguf-ranking",
    ("feature-extraction", "sentence-transformers"): "sentence-features",
    ("text-classification", "setfit"): "setfit",
    ("text-ranking", "transformers"): "sequence-ranking",
    ("image-to-image", "transformers"): "super-resolution",
    ("image-to-image", "diffusers"): "diffused-image-to-image",
    ("image-classification", "timm"): "timm-classification",
    ("image-feature-extraction", "timm"): "timm-features",
}
ROWS = {
    (tag, library): NAMED.get((tag, library), tag) for tag in SERVABLE for library in rows_of(tag)
}
# Smaller than the defaults, which would take minutes on a CPU even for a tiny model.
LESS = {"steps": "2", "width": "32", "height": "32", "frames": "5", "max_new_tokens": "4"}
LESS |= {"points": "4", "horizon": "4"}
SHORT = (
    'it\'s a "cat", really',
    "line\nbreak\r\n\ttab \\ back\\slash",
    "{{ .text }}{{ end }}}}{{ $(id) `id` ${HOME}",
    "喵🐈 ﬀ \u2028\u202e",
)
LONG = "frog " * 4_000
HOSTILE: tuple[list[str], ...] = (list(SHORT), [LONG])
# Generating an image is slow, so all hostile texts are joined into one.
PAINTED: tuple[list[str], ...] = (["".join((*SHORT, LONG))],)
# A shell script, since Python's start would take longer than the rest. No argument is empty.
DOCKER = f"""#!/bin/sh
printf '%s\\0' "$@" '' >> "$NOTES"
case $1 in
  inspect) echo "other/frog@sha256:{"b" * 64}"; name=${{4#docker.io/}}
    echo "${{name%:*}}@sha256:{"a" * 64}" ;;
  run) echo '{{"status": "success"}}' > outputs/result.json ;;
esac
"""
GIT = """#!/bin/sh
printf 'git %s\\0\\0' "$*" >> "$NOTES"
case $1 in init) mkdir -p .git/info ;; esac
"""


@pytest.fixture(scope="module")
def modules(hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return build_modules(hub_process, tmp_path_factory.mktemp("modules"), "tiny", ROWS.values())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the example files that the READMEs mention."""
    folder = tmp_path_factory.mktemp("inputs")
    PICTURE.save(folder / "image.png")
    FRAMES[0].save(folder / "clip.png", save_all=True, append_images=FRAMES[1:] * 2)
    (folder / "sound.wav").write_bytes(base64.b64decode(as_wav()))
    (folder / "table.csv").write_text("name,age\nfrog,3\nlily,4\n")
    Image.new("RGB", (8, 8)).save(folder / "other.png")
    return folder


def follow(module: Built, folder: Path) -> list[list[str]]:
    """Run the README's commands; return the arguments of each call of `docker` and `git`."""
    folder.mkdir()
    for name, text in module.files.items():
        (folder / name).write_text(text)
    (folder / "bin").mkdir()
    readme = module.files["README.md"]
    # Command blocks are indented by four spaces.
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", readme, re.MULTILINE)
    ]
    for program_name, text in (("docker", DOCKER), ("git", GIT)):
        program = folder / "bin" / program_name
        program.write_text(text)
        program.chmod(0o755)
    commands = "".join(blocks).replace("=your-name ", "=acme ")
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env={
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NOTES": str(folder / "notes"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    notes = (folder / "notes").read_text().removesuffix("\0\0").split("\0\0")
    return [note.split("\0") for note in notes]


def variables(arguments: list[str]) -> dict[str, str]:
    pairs = [after for flag, after in itertools.pairwise(arguments) if flag == "--env"]
    return dict(pair.split("=", 1) for pair in pairs)


def less(module: Built) -> dict[str, str]:
    template = module.files["lilypad_module.json.tmpl"]
    return {
        f"INPUT_{name.upper()}": value
        for name, value in LESS.items()
        if f"INPUT_{name.upper()}=" in template
    }


Answers = dict[str, dict[str, list[tuple[int, Any]]]]


@pytest.fixture(scope="module")
def results(
    modules: dict[str, Built],
    hub_process: RunningHub,
    inputs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], list[tuple[int, Any]]]:
    """Return a function that runs a model: the README's commands, then hostile inputs.

    Modules with torchvision run in a separate process; either process starts on first use.
    """
    folder = tmp_path_factory.mktemp("readmes")
    seeing = {n for n, m in modules.items() if "torchvision==" in m.files["requirements.txt"]}

    @cache
    def answers(sees: bool) -> Answers:
        names = seeing if sees else modules.keys() - seeing
        cases = {}
        for name in names:
            notes = follow(modules[name], folder / name)
            assert [note[0].split()[0] for note in notes] == ["build", "run", "push", "inspect"] + [
                "git"
            ] * 4
            runs = runs_of(modules[name], variables(notes[1]))
            cases[name] = {"app": str(modules[name].app), "runs": runs}
        drive([sys.executable, str(DRIVER), "fetch"], cases, HF_ENDPOINT=hub_process.url)
        more = {"HF_HUB_OFFLINE": "1", "INPUT_DIR": str(inputs)}
        more |= vision.environment() if sees else {}
        command = [*without_network(), sys.executable, str(DRIVER), "run"]
        answered: Answers = json.loads(drive(command, cases, **more))
        return answered

    return lambda name: answers(name in seeing)[name]["runs"]


def runs_of(module: Built, example: dict[str, str]) -> list[dict[str, str]]:
    """Return the README's variables, then variants with each text replaced by hostile ones."""
    subject = next(iter(example))
    sample = example | less(module)
    rest = {name: value for name, value in sample.items() if name != subject}
    painted = "stack: diffusion\n" in module.files["module.yaml"]
    requests = [json.dumps({"inputs": texts}) for texts in (PAINTED if painted else HOSTILE)]
    others = yaml.safe_load(module.files["module.yaml"])["inputs"][1:]
    requests += [
        json.dumps({"inputs": sample[subject], "parameters": {other["name"]: text}})
        for other in others
        if other["type"] == "string"
        for text in ("".join(SHORT), LONG)
    ]
    encoded = [base64.b64encode(request.encode()).decode() for request in requests]
    without = [
        {name: value for name, value in sample.items() if name != other["env"]}
        for other in others
        if other["required"]
    ]
    return [sample, *without, *({**rest, "REQUEST_B64": request} for request in encoded)]


@pytest.mark.parametrize("name", ROWS.values())
def test_the_readmes_commands_succeed(
    name: str, modules: dict[str, Built], results: Callable[[str], list[tuple[int, Any]]]
) -> None:
    code, result = results(name)[0]
    assert (code, result["status"]) == (0, "success"), result
    assert len(result["outputs"]) == 1
    shown = json.loads(
        modules[name].files["README.md"].partition("```json\n")[2].partition("```")[0]
    )
    assert shown.keys() == result.keys()
    [answer], [expected] = result["outputs"], shown["outputs"]
    while isinstance(answer, list) and answer and isinstance(expected, list):
        answer, expected = answer[0], expected[0]
    assert type(answer) is type(expected) or answer == []
    if isinstance(answer, dict):
        assert answer.keys() <= expected.keys()  # an aggregator is there where one was chosen


@pytest.mark.parametrize("name", ROWS.values())
def test_a_required_input_cannot_be_left_out(
    name: str, modules: dict[str, Built], results: Callable[[str], list[tuple[int, Any]]]
) -> None:
    _, *others = modules[name].manifest["inputs"]
    for code, result in results(name)[1 : 1 + sum(other["required"] for other in others)]:
        assert (code, result["error"]["type"]) == (2, "InvalidInput")


@pytest.mark.parametrize("name", ROWS.values())
def test_any_text_input_is_answered_or_rejected_as_invalid(
    name: str, results: Callable[[str], list[tuple[int, Any]]]
) -> None:
    for code, result in results(name)[1:]:
        assert (code, result["status"]) == (0, "success") or (
            code == 2 and result["error"]["type"] == "InvalidInput"
        ), result


def test_publishing_writes_the_image_digest_into_the_template(
    modules: dict[str, Built], tmp_path: Path
) -> None:
    follow(modules["text-classification"], tmp_path / "module")
    template = (tmp_path / "module/lilypad_module.json.tmpl").read_text()
    name = "docker.io/acme/lilypad-tiny-text-classification"
    assert f'"Image": "{name}@sha256:{"a" * 64}"' in template


def test_every_row_has_a_test_model() -> None:
    assert len(ROWS) == sum(len(rows) for rows in LIBRARIES.values())
    assert {tag for tag, _ in ROWS} == {tag for tag in SERVABLE if rows_of(tag)}
    assert shutil.which("bash")
