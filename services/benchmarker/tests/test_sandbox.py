"""Attempts of an untrusted model to escape its sandbox, each from a module's process."""

import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trial_attempt import MEMORY_SHARE, SANDBOX, WEAK, attempt

from benchmarker.settings import WorkerSettings
from benchmarker.worker import __main__ as worker
from benchmarker.worker import sandbox, seal
from benchmarker.worker.child import started
from benchmarker.worker.confinement import confined

BOTH = pytest.mark.parametrize("kind", [SANDBOX, WEAK], ids=["isolated", "sealed"])
SECRETS = dict.fromkeys(("HF_TOKEN", "HF_ENDPOINT", "NATS_URL", "DATABASE_URL"), "a-secret")
# Number of clone() by machine.
CLONE = {"x86_64": 56, "aarch64": 220}
TRIED = """
def tried(call, *arguments):
    try:
        return str(call(*arguments))
    except OSError as error:
        return error.strerror
"""


@pytest.fixture
def process_with_secrets() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the worker's user with secrets in its environment, like the worker's."""
    program = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(program, env={**os.environ, **SECRETS}) as process:
        yield process
        process.kill()


def test_this_machine_provides_every_kind_of_isolation() -> None:
    """The set-up installs bubblewrap, so that the tests below try the strongest sandbox.

    A bound of all processes together needs a container, or a machine that delegates it.
    """
    assert set(SANDBOX.missing) <= {"memory"}


@BOTH
async def test_a_module_inherits_no_secret_of_the_worker(tmp_path, monkeypatch, kind) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    verdict = await attempt(tmp_path, "answer(dict(os.environ))", sandbox=kind)
    [known] = verdict["result"]["outputs"]
    assert known["CUDA_VISIBLE_DEVICES"] == "1"
    assert set(known) >= {"MODEL_DIR", "OUTPUT_DIR", "REQUEST_B64", "HF_HUB_OFFLINE"}
    assert "a-secret" not in known.values()


async def test_a_module_cannot_read_another_processs_environment(
    tmp_path, process_with_secrets
) -> None:
    script = (
        "found = []\n"
        "for process in Path('/proc').iterdir():\n"
        "    try:\n        found.append((process / 'environ').read_text())\n"
        "    except OSError:\n        pass\n"
        f"answer('a-secret' in ''.join(found), Path('/proc/{process_with_secrets.pid}').exists())"
    )
    verdict = await attempt(tmp_path, script)
    assert verdict["result"]["outputs"] == [False, False]


def test_a_worker_hides_its_environment_from_its_own_user() -> None:
    program = (
        "import os\n"
        "from pathlib import Path\n"
        "from benchmarker.worker import seal\n"
        "def unprivileged(work):\n"
        "    if (child := os.fork()) == 0:\n"
        "        if os.geteuid() == 0:\n            os.setuid(65534)\n"
        "        seal._prctl(seal.PR_SET_DUMPABLE, 1, 0, 0, 0)\n"
        "        work()\n        os._exit(0)\n"
        "    return child\n"
        "def read(process):\n"
        "    try:\n        print('read', len(Path(f'/proc/{process}/environ').read_bytes()) > 0)\n"
        "    except PermissionError:\n        print('refused')\n"
        "    os.sys.stdout.flush()\n"
        "def worker(hide):\n"
        "    hide()\n    os.write(ready, b'.')\n    os.read(blocked, 1)\n"
        "for hide in (lambda: None, seal.hide):\n"
        "    begun, ready = os.pipe()\n    blocked, unblock = os.pipe()\n"
        "    process = unprivileged(lambda: worker(hide))\n"
        "    os.read(begun, 1)\n"
        "    os.waitpid(unprivileged(lambda: read(process)), 0)\n"
        "    os.write(unblock, b'.')\n    os.waitpid(process, 0)\n"
    )
    printed = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert printed.splitlines() == ["read True", "refused"]


async def test_a_module_can_write_neither_its_packages_nor_its_model(tmp_path) -> None:
    paths = [Path(sandbox.__file__), Path(json.__file__), tmp_path / "model" / "new", "/usr/new"]
    script = TRIED + f"answer(*[tried(open, path, 'ab') for path in {list(map(str, paths))}])"
    verdict = await attempt(tmp_path, script)
    outputs = verdict["result"]["outputs"]
    assert set(outputs) <= {"Read-only file system", "Permission denied"}, outputs


async def test_a_module_can_read_no_file_outside_its_folders(tmp_path) -> None:
    (tmp_path / "secret").write_text("a-secret")
    paths = ["/etc/shadow", "/etc/hostname", "/var", "/home", str(tmp_path / "secret")]
    script = f"answer(*[os.path.exists(path) for path in {paths}])"
    verdict = await attempt(tmp_path, script)
    assert verdict["result"]["outputs"] == [False] * len(paths)


@BOTH
async def test_a_module_can_neither_join_nor_create_a_namespace(tmp_path, kind) -> None:
    script = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def refused(call, *arguments):\n"
        "    return call(*arguments) == -1 and os.strerror(ctypes.get_errno())\n"
        "joined = refused(libc.setns, os.open('/proc/self/ns/net', os.O_RDONLY), 0)\n"
        "made = refused(libc.unshare, 0x10000000)\n"
        "traced = refused(libc.ptrace, 16, os.getppid(), 0, 0)\n"
        "answers = [joined, made, traced]\n"
        "def born(call, *arguments):\n"
        "    answers.append(refused(libc.syscall, call, *arguments))\n"
        "    if os.getpid() != me:\n        os._exit(0)\n"
        "me, sigchld = os.getpid(), 17\n"
        "for new in (0x20000, *(1 << bit for bit in range(25, 31))):\n"
        f"    born({CLONE[platform.machine()]}, new | sigchld, 0, 0, 0, 0)\n"
        "user = ctypes.create_string_buffer((1 << 28).to_bytes(8, 'little') + bytes(80))\n"
        "born(435, user, 88)\n"
        "answer(*answers)"
    )
    verdict = await attempt(tmp_path, script, sandbox=kind)
    *others, last = verdict["result"]["outputs"]
    assert others == ["Permission denied"] * 10
    assert last == "Function not implemented"  # clone3(), for which libraries use clone()


@BOTH
async def test_a_module_reaches_no_network(tmp_path, kind) -> None:
    script = TRIED + (
        "import ctypes, socket, subprocess, sys\n"
        "def connect(address):\n    socket.create_connection(address, 5)\n"
        "metadata = tried(connect, ('169.254.169.254', 80))\n"
        "local = tried(connect, ('127.0.0.1', 1))\n"
        "families = (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET)\n"
        "ring = ctypes.CDLL(None).syscall(425, 1, 0)\n"
        "child = subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'])\n"
        "pair = bool(socket.socketpair())\n"
        "answer([metadata, local, *[tried(socket.socket, f) for f in families]],\n"
        "    [ring, child.returncode, pair])"
    )
    verdict = await attempt(tmp_path, script, sandbox=kind)
    refusals, others = verdict["result"]["outputs"]
    assert set(refusals) <= {"Permission denied", "Network is unreachable"}, verdict
    if seal.available():
        assert others == [-1, 1, True]


async def test_a_measured_model_reaches_no_network_either(tmp_path, monkeypatch) -> None:
    """A measuring child must not reach a listener outside its sandbox."""
    (tmp_path / "curious.py").write_text(
        "import socket\n"
        "from benchmarker.worker.process import answer_questions\n"
        "def reach(question):\n"
        "    try:\n        socket.create_connection(tuple(question['to']), 5)\n"
        "    except OSError as error:\n        return {'refused': error.strerror}\n"
        "    return {'refused': None}\n"
        "answer_questions(reach)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tmp_path.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with started("curious") as child:
            assert (await child.request(to=server.getsockname()))["refused"] is None
        for kind in (SANDBOX, WEAK):
            with confined(kind, str(tmp_path), MEMORY_SHARE) as confinement:
                async with started("curious", None, confinement) as child:
                    answer = await child.request(to=server.getsockname())
                assert answer["refused"] in {"Permission denied", "Connection refused",
                                             "Network is unreachable"}  # fmt: skip


async def test_a_fork_bomb_ends_at_the_limit_of_processes(tmp_path) -> None:
    script = (
        "import signal, time\n"
        "children = []\n"
        "try:\n"
        "    while len(children) < 20_000:\n"
        "        child = os.fork()\n"
        "        if not child:\n            time.sleep(600)\n"
        "        children.append(child)\n"
        "except BlockingIOError:\n    pass\n"
        "answer(len(children))"
    )
    verdict = await attempt(tmp_path, script)
    [count] = verdict["result"]["outputs"]
    assert 0 < count < seal.MAX_PROCESSES


async def test_a_module_can_fill_only_its_own_scratch_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SCRATCH_BYTES", 64 * 2**20)
    script = (
        "written = 0\n"
        "try:\n"
        "    for number in range(100):\n"
        "        Path(f'large{number}').write_bytes(bytes(2**20)); written += 1\n"
        "except OSError as error:\n    words = error.strerror\n"
        "Path('large0').unlink()\n"
        "answer(written, words)"
    )
    verdict = await attempt(tmp_path, script)
    written, words = verdict["result"]["outputs"]
    assert written < 64
    assert words == "No space left on device"


async def test_a_process_in_its_own_session_ends_with_its_trial(tmp_path) -> None:
    mark = f"outliving-{os.getpid()}"
    script = outliving(mark)
    verdict = await attempt(tmp_path, script)
    assert verdict["verdict"] == "passed", verdict
    await until_gone(mark)


async def test_an_unisolated_worker_kills_processes_that_left_their_group(tmp_path) -> None:
    """The worker is a separate process, since it kills any child that it did not start."""
    mark = f"orphan-{os.getpid()}"
    program = (
        "import asyncio, pathlib\n"
        "from benchmarker.worker import seal\n"
        "from trial_attempt import WEAK, attempt\n"
        "seal.adopt_orphans()\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        f"print(asyncio.run(attempt(folder, {outliving(mark)!r}, sandbox=WEAK))['verdict'])"
    )
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    printed, _ = await done.communicate()
    assert printed.split() == [b"passed"]
    await until_gone(mark)


def outliving(mark: str) -> str:
    """Return a script that starts a process in its own session, and ends before it."""
    return (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "answer(1)"
    )


async def until_gone(mark: str) -> None:
    """Wait until no command line contains the mark."""
    while any(mark in (p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])):
        await asyncio.sleep(0.05)


async def test_a_result_beyond_its_bound_is_not_read(tmp_path) -> None:
    verdict = await attempt(
        tmp_path, "answer('x' * (70 * 2**20))", resources={"memoryMiB": 1024, "timeout": 1800}
    )
    assert verdict["verdict"] == "failed"
    assert verdict["result"] is None


def test_a_worker_that_requires_isolation_exits_if_it_is_incomplete(monkeypatch) -> None:
    monkeypatch.setattr(worker, "detect", lambda: WEAK)
    settings = WorkerSettings(nats_url="nats://none")
    assert worker.isolate(settings).missing == WEAK.missing
    settings = settings.model_copy(update={"require_isolation": True})
    with pytest.raises(SystemExit, match=r"REQUIRE_ISOLATION: .* user, files, processes;"):
        worker.isolate(settings)


def test_a_worker_without_bubblewrap_names_the_missing_isolation(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "_find_bubblewrap", lambda: None)
    detected = sandbox.detect()
    assert detected.bubblewrap == ()
    assert set(detected.missing) >= {"user", "files", "processes"}
