"""Trials of modules that reach the limits of their process, or fail."""

import asyncio
import contextlib
import json
import os
from importlib.metadata import distributions, version
from pathlib import Path

import psutil
import pytest
import torch
from trial_attempt import MANIFEST, attempt

from benchmarker.worker.packages import BESIDE
from benchmarker.worker.samples import request_for
from benchmarker.worker.trial import MAX_RESULT_CHARACTERS, shorten_all


async def test_a_verdict_contains_the_sample_request_and_the_modules_answer(tmp_path: Path) -> None:
    script = (
        "import base64\n"
        "answer(json.loads(base64.b64decode(os.environ['REQUEST_B64']))['inputs'][0].upper())"
    )
    verdict = await attempt(tmp_path, script)
    assert (verdict["verdict"], verdict["exitCode"]) == ("passed", 0), verdict
    [text] = verdict["sample"]["inputs"]
    assert verdict["result"]["outputs"] == [text.upper()]
    assert verdict["limits"]["memory"] == 256
    assert 0 < verdict["peakMemory"] < 256


async def test_a_classifier_of_pairs_is_tried_with_two_texts_and_others_with_one(
    tmp_path: Path,
) -> None:
    script = (
        "import base64\n"
        "given = json.loads(base64.b64decode(os.environ['REQUEST_B64']))['parameters']\n"
        "answer(given.get('text_pair'))"
    )
    for required in (True, False):
        inputs = [
            {"name": "text", "required": True},
            {"name": "text_pair", "required": required},
        ]
        verdict = await attempt(tmp_path, script, inputs=inputs)
        assert verdict["verdict"] == "passed", verdict
        assert bool(verdict["result"]["outputs"][0]) == required


async def test_a_module_imports_only_the_packages_that_it_pins(tmp_path: Path) -> None:
    names = ("yaml", "numpy", "torchvision", "benchmarker")
    script = f"from importlib.util import find_spec\nanswer(*map(bool, map(find_spec, {names})))"
    pins = "".join(f"{name}=={version(name)}\n" for name in ("PyYAML", "numpy"))
    verdict = await attempt(tmp_path, script, requirements=pins)
    assert verdict["result"]["outputs"] == [True, True, False, False]
    # A package that this environment must not contain comes from a separate folder, if pinned.
    [beside] = distributions(name="torchvision", path=[str(BESIDE)])
    pins = f"torchvision=={beside.version}\n"
    verdict = await attempt(tmp_path, script, requirements=pins)
    assert verdict["result"]["outputs"] == [False, False, True, False]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit(2)", "it printed nothing"),
        ("raise ValueError('no such layer')", "no such layer"),
        ("answer()", "0 outputs"),
        ("", "wrote no JSON object"),
        ("answer(1); raise SystemExit(3)", "exited with 3"),
        ("block = bytearray(3 * 2**30)", "MemoryError"),
        ("block = b'x' * (400 * 2**20); answer(1)", "asks for 256 MiB"),
        ("open('large', 'wb').truncate(300 * 2**20); answer(1)", "File too large"),
        *(
            (
                f"(Path(os.environ['OUTPUT_DIR']) / 'result.json').write_text({text})",
                "wrote no JSON object",
            )
            for text in ("'{'", "'[]'", "'[' * 100_000")
        ),
    ],
)
async def test_a_broken_module_fails_with_the_reason(
    tmp_path: Path, script: str, words: str
) -> None:
    verdict = await attempt(tmp_path, script)
    assert verdict["verdict"] == "failed"
    assert words in verdict["message"], verdict


# torch, and what it imports.
TORCH = frozenset(
    ("torch", "numpy", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "Jinja2")
) | {"MarkupSafe", "markupsafe", "filelock", "fsspec"}


class Payload:
    """A value whose pickle prints a line."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo the pickle ran >&2",)


# What a module's own conversion does, in a few lines.
CONVERTING = """
import sys, torch
folder = Path(os.environ["MODEL_DIR"])
old, new = folder / "pytorch_model.bin", folder / "model.safetensors"
if sys.argv[1:] == ["convert"]:
    block = bytearray(600 * 2**20)
    new.write_text(str(torch.load(old, weights_only=True)["weight"].sum().item()))
    old.unlink()
else:
    answer([new.read_text(), old.exists()])
"""
PICKLED = {
    "model": {
        **MANIFEST["model"],
        "files": [{"path": "pytorch_model.bin", "becomes": "model.safetensors"}],
        "weightBytes": 12,
    },
    "resources": {"memoryMiB": 512, "timeout": 1800},
}


@pytest.mark.filterwarnings("ignore")
async def test_pickled_weights_are_converted_in_the_sandbox_and_never_run(tmp_path: Path) -> None:
    file = tmp_path / "model" / "pytorch_model.bin"
    file.parent.mkdir()
    pins = "".join(
        f"{one.metadata['Name']}=={one.version}\n"
        for one in distributions()
        if one.metadata["Name"] in TORCH
    )
    torch.save({"weight": torch.ones(3)}, file)
    verdict = await attempt(tmp_path, CONVERTING, requirements=pins, **PICKLED)
    assert verdict["verdict"] == "passed", verdict
    assert verdict["result"]["outputs"] == [["3.0", False]]
    assert file.exists()
    # The conversion's memory is not the module's.
    assert verdict["peakMemory"] < 512
    torch.save({"weight": Payload()}, file)
    verdict = await attempt(tmp_path, CONVERTING, requirements=pins, **PICKLED)
    assert verdict["verdict"] == "failed"
    assert "could not be converted" in verdict["message"]
    assert "Weights only load failed" in verdict["message"]
    assert "the pickle ran" not in verdict["message"]
    large = {**PICKLED, "model": {**PICKLED["model"], "weightBytes": 2**30}}
    verdict = await attempt(tmp_path, CONVERTING, requirements=pins, **large)
    assert (verdict["verdict"], "at most 768 MiB" in verdict["message"]) == ("not_run", True)


async def test_mapped_files_do_not_count_as_a_modules_memory(tmp_path: Path) -> None:
    """The kernel evicts mapped files, such as weights that are being read, when it needs memory."""
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "weights").open("wb") as file:
        file.truncate(250 * 2**20)
    script = (
        "import mmap, time\n"
        "with open(os.environ['MODEL_DIR'] + '/weights', 'rb') as file:\n"
        "    weights = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "touched = sum(weights[at] for at in range(0, len(weights), 4096))\n"
        "time.sleep(0.5)\n"
        "answer(touched)"
    )
    verdict = await attempt(tmp_path, script)
    assert verdict["verdict"] == "passed", verdict
    assert 0 < verdict["peakMemory"] < 50


async def test_a_module_that_exceeds_its_time_is_killed(tmp_path: Path) -> None:
    verdict = await attempt(tmp_path, "import time; time.sleep(600)", seconds=0.5)
    assert verdict["verdict"] == "failed"
    assert "not finish within 0.5 s" in verdict["message"]


async def test_canceling_a_trial_kills_its_module(tmp_path: Path) -> None:
    trial_task = asyncio.create_task(attempt(tmp_path, "import time; time.sleep(600)"))
    module = None
    async with asyncio.timeout(60):
        while module is None:
            await asyncio.sleep(0.05)
            children = psutil.Process().children(recursive=True)
            with contextlib.suppress(psutil.NoSuchProcess):
                module = next((p for p in children if "run_inference.py" in p.cmdline()), None)
        trial_task.cancel()
        await asyncio.wait([trial_task])
        with contextlib.suppress(psutil.NoSuchProcess):
            while module.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.05)


async def test_a_module_is_not_run_if_the_worker_lacks_its_packages(tmp_path: Path) -> None:
    verdict = await attempt(tmp_path, "answer(1)", requirements="no-such-package==1.0\n")
    assert verdict["verdict"] == "not_run"
    assert "no-such-package" in verdict["message"]
    adapter = {**MANIFEST["model"], "base": {"id": "a/c", "files": []}}
    verdict = await attempt(tmp_path, "answer(1)", model=adapter)
    assert (verdict["verdict"], "base of an adapter" in verdict["message"]) == ("not_run", True)
    verdict = await attempt(tmp_path, "answer(1)", requirements="PyYAML==0.1\n")
    assert list(verdict["packages"]) == ["PyYAML"]
    request = request_for({**MANIFEST, "inputs": [{"name": "text"}]})
    assert request["parameters"] == {}


async def test_an_unknown_kind_of_input_is_named_in_the_verdict(tmp_path: Path) -> None:
    verdict = await attempt(tmp_path, "answer(1)", inputs=[{"name": "smell"}])
    assert (verdict["verdict"], "smell" in verdict["message"]) == ("not_run", True)


def test_a_long_answer_is_shortened_and_states_its_length() -> None:
    short = shorten_all({"outputs": ["x" * 5000, list(range(100)), "a\0b", "\ud800"]})
    text, numbers, nul, half = short["outputs"]
    assert "5,000 characters" in text
    assert numbers[-1] == "… and 84 more"
    assert (nul, half) == ("a\ufffdb", "?")
    huge = shorten_all({"outputs": {str(n): "x" * 300 for n in range(1000)}})
    assert len(json.dumps(huge)) < MAX_RESULT_CHARACTERS
    assert shorten_all("no object") is None
