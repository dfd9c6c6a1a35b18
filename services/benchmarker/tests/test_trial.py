"""A module that is run once, in a process that is bounded: with scripts that try what they may."""

import asyncio
import contextlib
import json
import platform
import shutil
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from benchmarker.worker import offline
from benchmarker.worker.child import started
from benchmarker.worker.packages import BESIDE
from benchmarker.worker.samples import request_for
from benchmarker.worker.trial import MOST_OF_IT, shorten_all, without_network

TRIAL = "benchmarker.worker.trial"
MANIFEST = {
    "model": {"id": "a/b", "task": "text-classification", "files": []},
    "resources": {"memoryMiB": 256, "timeout": 1800},
    "inputs": [{"name": "text"}, {"name": "seed"}],
}
ANSWER = """
import json, os
from pathlib import Path
def answer(*outputs):
    written = {"status": "success", "outputs": outputs}
    (Path(os.environ["OUTPUT_DIR"]) / "result.json").write_text(json.dumps(written))
"""


async def attempt(
    folder: Path, script: str, *, requirements: str = "", seconds: float = 60, **fields: Any
) -> dict[str, Any]:
    """What the child says of a module with this script in place of its own."""
    files = {
        "module.yaml": yaml.safe_dump({**MANIFEST, **fields}),
        "requirements.txt": requirements,
        "run_inference.py": ANSWER + script,
    }
    (folder / "run").mkdir()
    async with started(TRIAL) as child:
        return await child.ask(
            files=files, model=str(folder), folder=str(folder / "run"), seconds=seconds
        )


async def test_a_module_gets_a_sample_and_its_answer_is_the_verdicts(tmp_path: Path) -> None:
    script = (
        "import base64\n"
        "answer(json.loads(base64.b64decode(os.environ['REQUEST_B64']))['inputs'][0].upper())"
    )
    found = await attempt(tmp_path, script)
    assert (found["verdict"], found["exitCode"]) == ("passed", 0), found
    [text] = found["sample"]["inputs"]
    assert found["result"]["outputs"] == [text.upper()]
    assert found["limits"]["memory"] == 256
    assert 0 < found["peakMemory"] < 256


async def test_the_network_is_away_or_it_is_said_that_it_is_not(tmp_path: Path) -> None:
    script = (
        "import socket\n"
        "try:\n    socket.create_connection(('127.0.0.1', 1), 5)\n"
        "except OSError as error:\n    answer(error.strerror)"
    )
    found = await attempt(tmp_path, script)
    if without_network():
        # Without a network there is not even the machine itself.
        [reason] = found["result"]["outputs"]
        assert found["network"] == "off"
        assert reason in {"Network is unreachable", "Permission denied"}
        assert "network off" in found["message"]
    else:
        assert found["network"] == "unused"
        assert "network unused" in found["message"]


async def test_where_nobody_may_have_a_network_of_his_own_sockets_are_refused(
    tmp_path: Path, monkeypatch
) -> None:
    """As in most containers: here the command that makes a network cannot be found."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "true").symlink_to(shutil.which("true"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    script = (
        "import ctypes, socket, subprocess, sys\n"
        "def opened(family):\n"
        "    try:\n        return bool(socket.socket(family))\n"
        "    except OSError as error:\n        return error.strerror\n"
        "families = (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_UNIX)\n"
        "ring = ctypes.CDLL(None).syscall(425, 1, 0)\n"
        "child = subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'])\n"
        "answer([*map(opened, families), ring, child.returncode])"
    )
    found = await attempt(tmp_path, script)
    if platform.machine() in offline.MACHINES:
        assert (found["verdict"], found["network"]) == ("passed", "off"), found
        assert found["result"]["outputs"] == [[*["Permission denied"] * 3, True, -1, 1]]
    else:  # no filter is known for it, which the verdict says
        assert found["network"] == "unused"


async def test_it_knows_nothing_of_the_worker(tmp_path: Path, monkeypatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "NATS_URL", "PYTHONPATH", "DATABASE_URL"):
        monkeypatch.setenv(name, "secret")
    device = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    for name, value in device.items():
        monkeypatch.setenv(name, value)
    found = await attempt(tmp_path, "answer(dict(os.environ))")
    known = found["result"]["outputs"][0]
    assert device.items() <= known.items()
    assert set(known) >= {"MODEL_DIR", "OUTPUT_DIR", "REQUEST_B64", "HF_HUB_OFFLINE"}
    assert "secret" not in known.values()


async def test_it_sees_the_packages_that_it_pins_and_no_others(tmp_path: Path) -> None:
    names = ("yaml", "numpy", "torchvision", "benchmarker")
    script = f"from importlib.util import find_spec\nanswer(*map(bool, map(find_spec, {names})))"
    pins = "".join(f"{name}=={version(name)}\n" for name in ("PyYAML", "numpy"))
    (tmp_path / "one").mkdir()
    found = await attempt(tmp_path / "one", script, requirements=pins)
    assert found["result"]["outputs"] == [True, True, False, False]
    # What must not be in this environment is taken from beside it, where a module pins it.
    [beside] = distributions(name="torchvision", path=[str(BESIDE)])
    pins = f"torchvision=={beside.version}\n"
    (tmp_path / "other").mkdir()
    found = await attempt(tmp_path / "other", script, requirements=pins)
    assert found["result"]["outputs"] == [False, False, True, False]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise ValueError('no such layer')", "no such layer"),
        ("answer()", "0 outputs"),
        ("", "it said nothing"),
        ("answer(1); raise SystemExit(3)", "ended with 3"),
        ("block = bytearray(3 * 2**30)", "MemoryError"),
        ("block = b'x' * (400 * 2**20); answer(1)", "asks for 256 MiB"),
        ("open('large', 'wb').truncate(300 * 2**20); answer(1)", "File too large"),
        ("(Path(os.environ['OUTPUT_DIR']) / 'result.json').write_text('{')", "ended with 1"),
    ],
)
async def test_a_module_that_does_not_work_fails_with_the_reason(
    tmp_path: Path, script: str, words: str
) -> None:
    found = await attempt(tmp_path, script)
    assert found["verdict"] == "failed"
    assert words in found["message"], found


async def test_files_that_are_mapped_are_no_memory_that_a_module_takes(tmp_path: Path) -> None:
    """As weights are while they are read: the kernel lets go of them at need."""
    script = (
        "import mmap, time\n"
        "with open('weights', 'wb') as file:\n    file.truncate(250 * 2**20)\n"
        "with open('weights', 'rb') as file:\n"
        "    weights = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "touched = sum(weights[at] for at in range(0, len(weights), 4096))\n"
        "time.sleep(0.5)\n"
        "answer(touched)"
    )
    found = await attempt(tmp_path, script)
    assert found["verdict"] == "passed", found
    assert 0 < found["peakMemory"] < 50


async def test_one_that_does_not_end_is_ended(tmp_path: Path) -> None:
    found = await attempt(tmp_path, "import time; time.sleep(600)", seconds=0.5)
    assert found["verdict"] == "failed"
    assert "within 0.5 s" in found["message"]


async def test_when_the_trial_is_given_up_so_is_the_module(tmp_path: Path) -> None:
    asked = asyncio.create_task(attempt(tmp_path, "import time; time.sleep(600)"))
    module = None
    async with asyncio.timeout(60):
        while module is None:
            await asyncio.sleep(0.05)
            children = psutil.Process().children(recursive=True)
            with contextlib.suppress(psutil.NoSuchProcess):
                module = next((p for p in children if "run_inference.py" in p.cmdline()), None)
        asked.cancel()
        await asyncio.wait([asked])
        while module.is_running() and module.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)


async def test_what_a_worker_does_not_have_is_not_the_modules_fault(tmp_path: Path) -> None:
    found = await attempt(tmp_path, "answer(1)", requirements="no-such-package==1.0\n")
    assert found["verdict"] == "not_run"
    assert "no-such-package" in found["message"]
    (tmp_path / "other").mkdir()
    found = await attempt(tmp_path / "other", "answer(1)", requirements="PyYAML==0.1\n")
    assert list(found["packages"]) == ["PyYAML"]
    found = request_for({**MANIFEST, "inputs": [{"name": "text"}]})
    assert found["parameters"] == {}


async def test_a_kind_of_input_that_is_not_known_is_said(tmp_path: Path) -> None:
    found = await attempt(tmp_path, "answer(1)", inputs=[{"name": "smell"}])
    assert (found["verdict"], "smell" in found["message"]) == ("not_run", True)


def test_a_long_answer_is_cut_and_says_how_long_it_was() -> None:
    short = shorten_all({"outputs": ["x" * 5000, list(range(100)), "a\0b", "\ud800"]})
    text, numbers, nul, half = short["outputs"]
    assert "5,000 characters" in text
    assert numbers[-1] == "… and 84 more"
    assert (nul, half) == ("a\ufffdb", "?")
    huge = shorten_all({"outputs": {str(n): "x" * 300 for n in range(1000)}})
    assert len(json.dumps(huge)) < MOST_OF_IT
    assert shorten_all("no object") is None
