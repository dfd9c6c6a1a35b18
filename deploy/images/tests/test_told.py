"""Attribution of a failed build: to a registry, to the machine, or to this project."""

import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
# The limits of the commands of `able.sh`, and a margin.
ABLE_S = 120 + 60 + 60


def told(folder: Path, printed: str, fault: str = "1") -> tuple[int, int]:
    """Run a failing command with `told`; return its exit status and how often it ran."""
    command = (
        f". {FOLDER}/told.sh; fault={fault} pause_s=0 told {folder}/log"
        f" bash -c 'echo >> {folder}/runs; cat {folder}/printed; exit 9'"
    )
    (folder / "printed").write_text(printed)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True)
    return done.returncode, len((folder / "runs").read_text().splitlines())


@pytest.mark.parametrize(
    "printed",
    [
        "WARNING: Retrying after connection broken by 'ReadTimeoutError'\n",
        "ERROR: Could not find a version that satisfies the requirement torch==2.13.0\n",
        "npm error code ECONNRESET\n",
        "npm error code E404\nnpm error 404 Not Found - GET http://registry/katex\n",
        "E: Failed to fetch http://registry/Packages\nE: Unable to locate package python3-venv\n",
        (
            "ERROR: No matching distribution found for hatchling\n"
            "ERROR: Failed to build 'file:///build/libs/common' when installing build\n"
        ),
        "E: Failed to fetch http://registry/pool/main/p/python3.deb\n",
        "Error: committing container: write /layer: No space left on device\n",
    ],
)
def test_a_fault_of_a_registry_or_the_machine_is_retried_and_does_not_count(
    tmp_path: Path, printed: str
) -> None:
    assert told(tmp_path, printed) == (75, 3)


@pytest.mark.parametrize(
    "printed",
    [
        'Error: building at STEP "COPY libs libs": no such file or directory\n',
        "*** Error compiling '/opt/lilypad/lib/module.py'...\n",
        "Error: parsing Dockerfile: unknown instruction: RAN\n",
        "ERROR: Could not open requirements file: [Errno 2] No such file: 'constraint.txt'\n",
        "ERROR: Invalid requirement: 'fastapi=1': Expected end\n",
        "ERROR: Failed to build 'lilypad-common' when getting requirements to build wheel\n",
        "ERROR: Failed to build 'lilypad-common'\n",
        "ERROR: Failed to build 'file:///build/libs/common' when calling build backend hook\n",
        "ERROR: Could not build wheels for lilypad-common, which is required\n",
        "ERROR: Exception:\ntomllib.TOMLDecodeError: Expected ']' (at line 3, column 14)\n",
        "ERROR: Could not open constraint file: [Errno 2] No such file: 'constraint.txt'\n",
        "ERROR: Directory './libs/comon' is not installable. Neither 'setup.py' nor\n",
        "ERROR: ResolutionImpossible: for help visit the documentation of pip\n",
        'npm error Missing script: "biuld"\n',
        "E: Unable to locate package pyton3-venv\n",
    ],
)
def test_a_fault_of_our_own_counts_at_once(tmp_path: Path, printed: str) -> None:
    assert told(tmp_path, printed) == (1, 1)


def test_a_failure_of_a_command_that_runs_nothing_of_ours_never_counts(tmp_path: Path) -> None:
    assert told(tmp_path, "unshare: cannot create a namespace\n", fault="75") == (75, 3)


def started(command: str, able: str, start_s: int = 60) -> tuple[int, int]:
    """Run a command by `started`; return the exit status and the number of failed attempts."""
    script = f". {FOLDER}/told.sh; start_s={start_s} able={able} started {command}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True
    )
    return done.returncode, done.stderr.count("attempt")


def test_a_start_that_fails_or_hangs_twice_counts_on_a_machine_that_runs_containers() -> None:
    assert started("false", able="true") == (1, 2)
    assert started("sleep 600", able="true", start_s=1) == (1, 2)


def test_a_failed_start_does_not_count_on_a_machine_that_runs_no_containers() -> None:
    assert started("false", able="false") == (75, 2)


def test_a_start_that_succeeds_is_not_repeated() -> None:
    assert started("true", able="false") == (0, 0)


def test_the_images_decide_whether_a_change_lands() -> None:
    """Only a registry, the machine and its speed are excused."""
    run = (FOLDER.parents[1] / ".ci/run").read_text()
    branches = run.partition("case $status in")[2].partition("esac")[0]
    assert [line.split(")")[0].strip() for line in branches.splitlines() if ")" in line] == [
        *("0", "75", "124 | 137", "*"),
    ]
    assert "*) exit $status ;;" in branches
    # Both attempts of a start that hangs end before the step does, which would excuse it.
    [limit_s] = re.findall(r'step "stack of images" (\d+) env STEP=start ', run)
    told = (FOLDER / "told.sh").read_text()
    [(start_s, end_s)] = re.findall(r"start_s=\$\{start_s:-(\d+)\} end_s=(\d+)", told)
    assert int(limit_s) >= 2 * (int(start_s) + int(end_s)) + ABLE_S
