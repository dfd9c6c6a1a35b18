"""Each supported task as a stranger meets it: the README's commands, then whatever people type.

A program in the place of `docker` notes what it is asked; the module itself was built as its
Dockerfile says. All modules of one kind run in one process, since loading the libraries is what
takes long.
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

from generator.hub_tags import TAGS
from generator.libraries import LIBRARIES, rows_of
from hub import vision
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, made, without_network
from test_vision import FRAMES, PICTURE, as_wav

# Whichever comes first waits for all modules, on a busy machine for ten minutes.
pytestmark = pytest.mark.timeout(1800)

# A tiny model per row; those of one tag in several libraries have names of their own.
NAMED = {
    ("feature-extraction", "sentence-transformers"): "sentence-features",
    ("image-to-image", "transformers"): "super-resolution",
    ("image-to-image", "diffusers"): "diffused-image-to-image",
    ("image-classification", "timm"): "timm-classification",
    ("image-feature-extraction", "timm"): "timm-features",
}
ROWS = {(tag, library): NAMED.get((tag, library), tag) for tag in TAGS for library in rows_of(tag)}
# Real models take their own sizes; of a tiny one these would be minutes on a processor.
LESS = {"steps": "2", "width": "32", "height": "32", "frames": "5", "max_new_tokens": "4"}
LESS |= {"points": "4", "horizon": "4"}
SHORT = (
    'it\'s a "cat", really',
    "line\nbreak\r\n\ttab \\ back\\slash",
    "{{ .text }}{{ end }}}}{{ $(id) `id` ${HOME}",
    "喵🐈 ﬀ \u2028\u202e",
)
LONG = "frog " * 20_000
HOSTILE: tuple[list[str], ...] = (list(SHORT), [LONG])
# What is painted takes long, so all of it is one text.
PAINTED: tuple[list[str], ...] = (["".join((*SHORT, LONG))],)
DOCKER = """#!{python}
import json, os, sys
with open(os.environ["NOTES"], "a") as notes:
    print(json.dumps(sys.argv[1:]), file=notes)
if sys.argv[1] == "inspect":
    print("docker.io/your-name/frog@sha256:" + "a" * 64)
if sys.argv[1] == "run":
    with open("outputs/result.json", "w") as file:
        file.write('{{"status": "success"}}')
"""


@pytest.fixture(scope="module")
def modules(hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return made(hub_process, tmp_path_factory.mktemp("modules"), "tiny", ROWS.values())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the READMEs speak of."""
    folder = tmp_path_factory.mktemp("inputs")
    PICTURE.save(folder / "image.png")
    FRAMES[0].save(folder / "clip.png", save_all=True, append_images=FRAMES[1:] * 2)
    (folder / "sound.wav").write_bytes(base64.b64decode(as_wav()))
    (folder / "table.csv").write_text("name,age\nfrog,3\nlily,4\n")
    Image.new("RGB", (8, 8)).save(folder / "other.png")
    return folder


def follow(module: Built, folder: Path) -> list[list[str]]:
    """Do what the README says up to the publishing; what `docker` was asked, in order."""
    folder.mkdir()
    for name, text in module.files.items():
        (folder / name).write_text(text)
    program = folder / "bin/docker"
    program.parent.mkdir()
    program.write_text(DOCKER.format(python=sys.executable))
    program.chmod(0o755)
    readme = module.files["README.md"]
    # Blocks of commands are indented by four.
    blocks = [
        textwrap.dedent(found) for found in re.findall(r"(?:^    .*\n)+", readme, re.MULTILINE)
    ]
    commands = "".join(blocks).partition("git init")[0]
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env={
            "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NOTES": str(folder / "notes"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "notes").read_text().splitlines()]


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


Answers = dict[str, list[tuple[int, Any]]]


@pytest.fixture(scope="module")
def results(
    modules: dict[str, Built],
    hub_process: RunningHub,
    inputs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], list[tuple[int, Any]]]:
    """Of a model: what the README's own command answers, then each hostile input.

    Those that have torchvision are asked apart from the others, each when one is first wanted.
    """
    folder = tmp_path_factory.mktemp("readmes")
    seeing = {n for n, m in modules.items() if "torchvision==" in m.files["requirements.txt"]}

    @cache
    def answers(sees: bool) -> Answers:
        names = seeing if sees else modules.keys() - seeing
        asked = {}
        for name in names:
            notes = follow(modules[name], folder / name)
            assert [note[0] for note in notes] == ["build", "run", "push", "inspect"]
            runs = runs_of(modules[name], variables(notes[1]))
            asked[name] = {"app": str(modules[name].app), "runs": runs}
        given = json.dumps(asked)
        drive([], "fetch", given, HF_ENDPOINT=hub_process.url)
        more = {"HF_HUB_OFFLINE": "1", "INPUT_DIR": str(inputs)}
        more |= vision.environment() if sees else {}
        found: Answers = json.loads(drive(without_network(), "run", given, **more))
        return found

    return lambda name: answers(name in seeing)[name]


def drive(prefix: list[str], what: str, given: str, **environment: str) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, Path(__file__).parent / "driver.py", what],
        input=given,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def runs_of(module: Built, example: dict[str, str]) -> list[dict[str, str]]:
    """The README's variables, and the same with hostile texts in place of each of its own."""
    subject = next(iter(example))
    sample = example | less(module)
    rest = {name: value for name, value in sample.items() if name != subject}
    painted = "family: diffusion\n" in module.files["module.yaml"]
    requests = [json.dumps({"inputs": texts}) for texts in (PAINTED if painted else HOSTILE)]
    others = yaml.safe_load(module.files["module.yaml"])["inputs"][1:]
    requests += [
        json.dumps({"inputs": sample[subject], "parameters": {other["name"]: text}})
        for other in others
        if other["type"] == "string"
        for text in ("".join(SHORT), LONG)
    ]
    encoded = [base64.b64encode(request.encode()).decode() for request in requests]
    return [sample, *({**rest, "REQUEST_B64": request} for request in encoded)]


@pytest.mark.parametrize("name", ROWS.values())
def test_the_commands_of_the_readme_are_answered(
    name: str, results: Callable[[str], list[tuple[int, Any]]]
) -> None:
    code, result = results(name)[0]
    assert (code, result["status"]) == (0, "success"), result
    assert len(result["outputs"]) == 1


@pytest.mark.parametrize("name", ROWS.values())
def test_whatever_is_typed_is_answered_or_said_to_be_no_input(
    name: str, results: Callable[[str], list[tuple[int, Any]]]
) -> None:
    for code, result in results(name)[1:]:
        assert (code, result["status"]) == (0, "success") or (
            code == 2 and result["error"]["type"] == "InvalidInput"
        ), result


def test_publishing_puts_the_digest_where_the_network_looks_for_it(
    modules: dict[str, Built], tmp_path: Path
) -> None:
    follow(modules["text-classification"], tmp_path / "module")
    template = (tmp_path / "module/lilypad_module.json.tmpl").read_text()
    assert f'"Image": "docker.io/your-name/frog@sha256:{"a" * 64}"' in template


def test_every_row_has_its_model() -> None:
    assert len(ROWS) == sum(len(rows) for rows in LIBRARIES.values())
    assert {tag for tag, _ in ROWS} == {tag for tag in TAGS if rows_of(tag)}
    assert shutil.which("bash")
