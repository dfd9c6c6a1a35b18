"""The generated script without a model: its inputs, failures and files."""

import ast
import base64
import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.contracts.generation import GenerateRequest
from generator import rendering
from generator.handlers import Handlers
from hub.testing import RunningHub
from models.families import FAMILIES

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build

# The script as modules contain it, loaded but not run.
script: Any = ModuleType("run_inference")
seeing: Any = ModuleType("run_inference")
script.__file__ = __file__
seeing.__file__ = __file__
exec(compile(rendering.script("text_classification"), "run_inference.py", "exec"), script.__dict__)
exec(compile(rendering.script("vision"), "run_inference.py", "exec"), seeing.__dict__)

MODEL = "lilypad/tiny-text-classification"


@pytest.fixture
async def built(handlers: Handlers, hub: RunningHub, tmp_path: Path) -> Built:
    module = await handlers.generate(GenerateRequest(model_url=MODEL))
    built = build(module.files, tmp_path, fetched=False)
    built.fetch_here(hub.url)
    return built


async def test_only_the_listed_files_are_fetched_and_only_at_the_commit(
    built: Built, hub: RunningHub
) -> None:
    manifest = yaml.safe_load(built.files["module.yaml"])
    listed = {file["path"] for file in manifest["model"]["files"]}
    assert {path.name for path in (built.app / "model").iterdir()} == listed
    paths = [
        logged.path for logged in hub.requests if "lilypad-generator" not in str(logged.user_agent)
    ]
    assert paths
    commit, name = manifest["model"]["commit"], manifest["model"]["id"]
    assert all(
        path.startswith((f"/{name}/resolve/{commit}/", f"/cdn/{name}/{commit}/")) for path in paths
    )


async def test_modified_weights_are_not_loaded(built: Built) -> None:
    weights = built.app / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, result = built.run({"text": "hello"})
    assert (code, result["status"], result["outputs"]) == (1, "error", [])
    assert "model.safetensors is not the file" in result["error"]["message"]


async def test_a_modified_config_is_rejected(built: Built) -> None:
    config = built.app / "model" / "config.json"
    config.write_text(config.read_text().replace("bert", "tert"))
    assert "config.json is not the file" in built.run({"text": "hello"})[1]["error"]["message"]


async def test_the_build_fails_if_the_hub_serves_other_files(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    module = await handlers.generate(GenerateRequest(model_url=MODEL))
    manifest = yaml.safe_load(module.files["module.yaml"])
    for file in manifest["model"]["files"]:
        if file["path"] == "vocab.txt" or "blob" in file:
            file["blob"] = "0" * 40
    files = {**module.files, "module.yaml": yaml.safe_dump(manifest, sort_keys=False)}
    with pytest.raises(AssertionError, match=r"is not the file that module\.yaml names"):
        build(files, tmp_path, HF_ENDPOINT=hub.url)


async def test_invalid_inputs_are_reported_in_the_result(built: Built) -> None:
    code, result = built.run()
    assert (code, result["error"]) == (2, {"type": "InvalidInput", "message": "text: is missing"})
    assert json.loads(built.output.strip())["status"] == "error"


MANIFEST = {
    "inputs": [
        {"name": "text", "env": "INPUT_TEXT", "type": "string"},
        {"name": "count", "env": "INPUT_COUNT", "type": "integer", "minimum": 1, "maximum": 9},
        {"name": "heat", "env": "INPUT_HEAT", "type": "number", "minimum": 0, "maximum": 5},
        {"name": "all", "env": "INPUT_ALL", "type": "boolean", "default": False},
        {"name": "how", "env": "INPUT_HOW", "type": "string", "default": "well"},
    ]
}


def read(monkeypatch: pytest.MonkeyPatch, request: Any = None, **variables: str) -> Any:
    encoded = "" if request is None else base64.b64encode(json.dumps(request).encode()).decode()
    monkeypatch.setenv("REQUEST_B64", encoded)
    for parameter in MANIFEST["inputs"]:
        monkeypatch.setenv(str(parameter["env"]), variables.get(str(parameter["name"]), ""))
    return script.read_inputs(MANIFEST)


def test_scalar_inputs_are_converted_and_empty_ones_omitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read(monkeypatch, text="hi", count="3", heat="0.5", all="TRUE") == (
        ["hi"],
        {"count": 3, "heat": 0.5, "all": True, "how": "well"},
    )


def test_a_request_takes_precedence_over_scalar_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"inputs": ["a", "b"], "parameters": {"count": 2}}
    inputs, parameters = read(monkeypatch, request, text="c", count="3", how="so")
    assert (inputs, parameters["count"], parameters["how"]) == (["a", "b"], 2, "so")


@pytest.mark.parametrize(
    ("request_", "variables", "message"),
    [
        ([], {}, "request: must be an object"),
        ({"inputs": []}, {}, "give 1 to"),
        ({"inputs": ["a"] * 5000}, {}, "give 1 to"),
        ({"inputs": "a", "parameters": []}, {}, ""),
        ({"inputs": "a", "parameters": [1]}, {}, "parameters: must be an object"),
        (
            {"inputs": "a", "parameters": {"other": 1}},
            {},
            "unknown parameter 'other'; the module has count, heat, all, how",
        ),
        (
            {"text": "a"},
            {},
            "request: unknown key 'text'; its keys are `inputs` and `parameters`",
        ),
        ({"inputs": "a", "count": 2}, {}, "request: unknown key 'count'; its keys are"),
        ({"inputs": "a", "parameters": {"count": 2.5}}, {}, "count: must be of type integer"),
        ({"inputs": "a", "parameters": {"count": True}}, {}, "count: must be of type integer"),
        ({"inputs": "a", "parameters": {"count": 10}}, {}, "count: must be between 1 and 9"),
        ({"inputs": "a", "parameters": {"heat": math.nan}}, {}, "heat: must be of type number"),
        ({"inputs": "a", "parameters": {"heat": 10**400}}, {}, "heat"),
        ({"inputs": "a", "parameters": {"how": 1}}, {}, "how: must be of type string"),
        (None, {"text": "a", "count": "x"}, "count: must be of type integer"),
        (None, {"text": "a", "all": "yes!"}, "all: must be of type boolean"),
        (None, {"text": "a", "heat": "inf"}, "heat: must be of type number"),
    ],
)
def test_an_error_names_the_invalid_field(
    monkeypatch: pytest.MonkeyPatch, request_: Any, variables: dict[str, str], message: str
) -> None:
    if not message:
        assert read(monkeypatch, request_, **variables)
        return
    with pytest.raises(script.InvalidInput, match=message):
        read(monkeypatch, request_, **variables)


@given(st.text(alphabet=st.characters(exclude_characters="\x00", codec="utf-8")))
def test_any_text_is_accepted_or_rejected_as_a_request(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUEST_B64", text)
        with contextlib.suppress(script.InvalidInput):
            assert isinstance(script.read_request(), dict)


def test_base64_with_line_breaks_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = base64.encodebytes(json.dumps({"inputs": "x" * 200}).encode()).decode()
    assert lines.count("\n") > 1
    monkeypatch.setenv("REQUEST_B64", lines)
    assert script.read_request() == {"inputs": "x" * 200}


@pytest.mark.parametrize("text", ["a", "ab", "abc", "abcd"])
def test_base64_without_its_padding_is_accepted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    encoded = base64.b64encode(json.dumps({"inputs": text}).encode()).decode()
    for sent in (encoded, encoded.rstrip("=")):
        monkeypatch.setenv("REQUEST_B64", sent)
        assert script.read_request() == {"inputs": text}
    picture = base64.b64encode(text.encode()).decode().rstrip("=")
    assert seeing.read_file(picture, "a picture") == text.encode()


def test_base64_of_a_file_may_be_line_wrapped_or_url_safe() -> None:
    content = bytes(range(256)) * 2
    for encoded in (base64.encodebytes(content), base64.urlsafe_b64encode(content)):
        assert seeing.read_file(encoded.decode(), "a picture") == content


@pytest.mark.parametrize("value", ["", None, 7, "\ud800", ["a"]])
def test_only_a_non_empty_string_is_accepted_as_text(value: Any) -> None:
    with pytest.raises(script.InvalidInput, match=r"^inputs: "):
        script.check_texts([value])
    with pytest.raises(script.InvalidInput, match=r"^text_pair: "):
        script.check_text("text_pair", value)


@pytest.mark.parametrize(
    "value", ["", "x", "../secret.png", "a\x00b", "/etc/passwd", 7, "====", "A" * 999]
)
def test_an_unreadable_image_is_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: Any
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "inputs").mkdir()
    monkeypatch.setattr(seeing, "INPUT_DIR", tmp_path / "inputs")
    with pytest.raises(seeing.InvalidInput):
        seeing.read_image(value)


def test_non_finite_numbers_become_null_in_one_complete_result_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "OUTPUT_DIR", tmp_path / "outputs")
    script.write({"outputs": script.to_json([math.nan, {"a": (math.inf, 1.5)}, "\u2028\ud800"])})
    (only,) = (tmp_path / "outputs").iterdir()
    assert json.loads(only.read_text()) == {"outputs": [None, {"a": [None, 1.5]}, "\u2028\ud800"]}


@pytest.mark.parametrize("converts", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_script_is_self_contained_and_has_no_unused_code(
    family: str, converts: bool
) -> None:
    converts = converts or family == "setfit"  # its head is always converted, by its own reader
    text = rendering.script(family, converts=converts)
    assert "generator.templates" not in text
    assert len(text.splitlines()) < 650 + 110 * converts + 100 * (family == "setfit")
    tree = ast.parse(text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = [target for node in tree.body for target in getattr(node, "targets", ())]
    constants = {target.id for target in assigned if isinstance(target, ast.Name)}
    assert defined | constants <= used  # no code of another task


def test_each_familys_script_imports_what_it_uses_and_defines_each_name_once(
    tmp_path: Path,
) -> None:
    for family in FAMILIES:
        for converts in (False, True):
            file = tmp_path / f"{family}{'_converting' * converts}.py"
            file.write_text(rendering.script(family, converts=converts))
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F"]
    checked = subprocess.run([*ruff, "."], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout[:3000]


FILES = sorted((rendering.TEMPLATES / "inference").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_names_of_inference_code_survive_the_joining_of_files(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(rendering.PACKAGE):
            assert node in tree.body, "an import within a function would stay in the script"
            assert all(name.asname in (None, name.name) for name in node.names), "an alias is lost"
        elif isinstance(node, ast.Import):
            assert not any(name.name.startswith("generator") for name in node.names)


@pytest.mark.parametrize("family", ["segmentation", "mask_generation", "depth"])
def test_a_large_image_is_shrunk_for_the_model_and_its_masks_are_full_size(
    family: str,
) -> None:
    module: Any = ModuleType("run_inference")
    module.__file__ = __file__
    exec(compile(rendering.script(family), "run_inference.py", "exec"), module.__dict__)
    seen: list[tuple[int, int]] = []

    def pipeline(picture: Image.Image, **_: Any) -> Any:
        seen.append(picture.size)
        mask = torch.ones(picture.height, picture.width, dtype=torch.bool)
        if family == "mask_generation":
            return {"scores": torch.ones(1), "masks": [mask]}
        image = Image.new("L", picture.size)
        depth = {"predicted_depth": [], "depth": image}
        return depth if family == "depth" else [{"label": "frog", "score": 1.0, "mask": image}]

    parameters = {"points": 8, "threshold": 0.5, "stability": 0.5}
    pictures = [png(2000, 1500), png(64, 48)]
    answers = module.answer(pipeline, {}, pictures, parameters)
    assert seen == [(1182, 886), (64, 48)]
    if family != "depth":
        masks = [base64.b64decode(answer[0]["mask"]) for answer in answers]
        assert [Image.open(io.BytesIO(mask)).size for mask in masks] == [(2000, 1500), (64, 48)]


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
