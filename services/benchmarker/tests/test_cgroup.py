"""Bounds on all processes of a model together.

Tests of a real control group need a machine that lets this process make one; version 2 is tried on
a folder of the same shape, in which no kernel acts.
"""

import errno
import itertools
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_sandbox import outliving, until_gone
from trial_attempt import SANDBOX, WEAK, attempt

from benchmarker.settings import WorkerSettings
from benchmarker.worker import __main__ as worker
from benchmarker.worker import cgroup, sandbox, seal

real_groups = pytest.mark.skipif(
    SANDBOX.groups is None, reason="this machine allows no control group with a memory controller"
)
# A container with a control group of its own, in each version: its groups, and its mounts.
CONTAINERS = {
    "v1": (
        "4:memory:/docker/0a\n3:cpu,pids:/docker/0a\n0::/\n",
        """30 24 0:26 /docker/0a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 24 0:27 /docker /sys/fs/cgroup/pids rw - cgroup cgroup rw,cpu,pids
""",
    ),
    # The source of a mount may be empty.
    "v2": (
        "0::/service\n",
        """30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw
31 24 0:27 / /tmp rw - tmpfs  rw
""",
    ),
}


def machine(root: Path, version: str, **files: str) -> Path:
    """Write the files by which a machine describes its control groups; return their folder."""
    groups, mounts = CONTAINERS[version]
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@real_groups
async def test_all_processes_of_a_module_share_one_memory_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(seal, "RESERVED_MIB", 64)
    script = (
        "import time\n"
        "for _ in range(4):\n"
        "    if not os.fork():\n"
        "        held = b'x' * (128 * 2**20)\n"
        "        time.sleep(10)\n"
        "        os._exit(0)\n"
        "os.wait()\n"
        "answer('ran')"
    )
    verdict = await attempt(tmp_path, script)
    assert verdict["verdict"] == "failed", verdict
    assert "together took more memory" in verdict["message"]
    for folder in SANDBOX.groups.folders:
        assert not list(folder.glob(f"{cgroup.PREFIX}{os.getpid()}-*"))


@real_groups
async def test_a_process_in_its_own_session_ends_with_its_group_without_namespaces(
    tmp_path,
) -> None:
    mark = f"in-its-group-{tmp_path.name}"
    sealed = replace(WEAK, groups=SANDBOX.groups)
    verdict = await attempt(tmp_path, outliving(mark), sandbox=sealed)
    assert verdict["verdict"] == "passed", verdict
    await until_gone(mark)


@pytest.fixture
def version_2(tmp_path: Path, monkeypatch) -> Path:
    """A fake machine with version 2: a new folder gets a group's files, which have no effect."""
    own = "sys/fs/cgroup/service/"
    files = {own + "cgroup.controllers": "cpu memory pids", own + "cgroup.subtree_control": ""}
    root = machine(tmp_path, "v2", **files, **{own + "cgroup.type": "domain"})

    def make(folder: Path, mode: int = 0o777, *, exist_ok: bool = False) -> None:
        os.mkdir(folder, mode)  # noqa: PTH102  (Path.mkdir is what this replaces)
        for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs", "cgroup.kill"):
            (folder / name).write_text("")

    monkeypatch.setattr(cgroup, "END_S", 0)
    monkeypatch.setattr(Path, "mkdir", make)
    return root


def test_a_worker_alone_in_its_group_makes_bounded_subgroups_in_version_2(version_2: Path) -> None:
    own = version_2 / "sys/fs/cgroup/service"
    groups = cgroup.find(version_2)
    assert groups == cgroup.Groups((own,))
    assert (own / "lilypad-worker/cgroup.procs").read_text() == "0"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    with groups.group(5000, 7) as group:
        [folder] = group.folders
        subprocess.run(group.command(["true"]), check=True)
        names = ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs", "cgroup.kill")
        texts = [(folder / name).read_text().strip() for name in names]
        assert texts == ["5000", "0", "7", "0", ""]
        assert not group.ran_out()
        (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
        assert group.ran_out()
    assert (folder / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize(
    "name", ["lilypad-{worker}-0", "lilypad-{worker}-1-0", "lilypad-4194305-7-0"]
)
def test_a_group_that_a_killed_worker_left_is_ended_although_its_number_is_in_use_again(
    version_2: Path, monkeypatch, name: str
) -> None:
    own = version_2 / "sys/fs/cgroup/service"
    left = own / name.format(worker=os.getpid())
    left.mkdir()
    (left / "cgroup.procs").write_text("4194305")
    monkeypatch.setattr(cgroup, "_numbers", itertools.count())
    assert cgroup.find(version_2) == cgroup.Groups((own,))
    assert (left / "cgroup.kill").read_text() == "1"


def test_a_group_of_another_live_worker_is_left_alone(version_2: Path) -> None:
    groups = cgroup.Groups((version_2 / "sys/fs/cgroup/service",))
    with groups.group(5000, 7) as group:
        (group.folders[0] / "cgroup.procs").write_text("4194305")
        assert cgroup.find(version_2) == groups
        assert (group.folders[0] / "cgroup.kill").read_text() == ""


def test_a_worker_with_other_processes_in_its_group_stays_in_it(
    version_2: Path, monkeypatch
) -> None:
    write = Path.write_text

    def refuse_control(file: Path, text: str) -> int:
        if file.name == "cgroup.subtree_control":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return write(file, text)

    monkeypatch.setattr(Path, "write_text", refuse_control)
    assert cgroup.find(version_2) is None
    assert (version_2 / "sys/fs/cgroup/service/cgroup.procs").read_text() == "0"


@pytest.mark.parametrize("version", CONTAINERS)
def test_no_group_is_made_where_no_memory_controller_can_be_written(tmp_path, version) -> None:
    root = machine(tmp_path, version, **{"sys/fs/cgroup/service/cgroup.controllers": "hugetlb"})
    assert cgroup.find(root) is None
    assert cgroup.find(tmp_path / "no-proc") is None


@pytest.mark.parametrize(
    ("version", "file", "text", "limit"),
    [
        ("v2", "memory.max", "17179869184\n", 17179869184),
        ("v2", "service/memory.max", "17179869184\n", 17179869184),
        ("v2", "memory.max", "max\n", None),
        ("v2", "cgroup.procs", "", None),
        ("v1", "memory/memory.limit_in_bytes", "17179869184\n", 17179869184),
        ("v1", "memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_a_containers_memory_limit_is_read_in_both_versions_of_control_groups(
    tmp_path, version, file, text, limit
) -> None:
    assert (
        cgroup.memory_limit(machine(tmp_path, version, **{f"sys/fs/cgroup/{file}": text})) == limit
    )


def test_a_model_is_bounded_by_a_group_or_by_its_workers_container(monkeypatch) -> None:
    settings = WorkerSettings(nats_url="nats://none", require_isolation=True)
    monkeypatch.setattr(cgroup, "find", lambda: None)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 2**34)
    assert "memory" not in sandbox.detect().missing
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)
    assert sandbox.detect().missing[-1:] == ("memory",)
    with pytest.raises(SystemExit, match=r"REQUIRE_ISOLATION: .* memory; .* limit its container's"):
        worker.isolate(settings)
