import os
import subprocess
from pathlib import Path

from hub.catalogue import MODELS
from hub.making import make_missing
from hub.repository import Commit, read_commit, read_repository
from hub.testing import RunningHub, default_models_dir


def test_a_models_ids_are_those_of_git_itself(session_hub: RunningHub, tmp_path: Path):
    (model,) = (model for model in MODELS if model.id == "lilypad/tiny-sentence-similarity")
    folder = make_missing([model], default_models_dir())[model.id]
    repository = read_repository(model, folder)
    assert repository.branches == {"main": commit_by_git(model.id, repository.at("main"), tmp_path)}


def test_folders_are_sorted_as_in_git(tmp_path: Path):
    tree = tmp_path / "tree"
    for path in ("a/b/c.json", "a-b", "a.txt", "a0", "a/model.safetensors"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(path)
    commit = read_commit("frog/sorted", tree)
    assert commit.sha == commit_by_git("frog/sorted", commit, tmp_path / "git")


def commit_by_git(repo_id: str, commit: Commit, folder: Path) -> str:
    for path, file in commit.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # git-lfs would replace the content with the pointer, which is not wanted here
        target.write_bytes(file.pointer if file.is_lfs else file.stored.read_bytes())
    who = {
        f"GIT_{role}_{name}": value
        for role in ("AUTHOR", "COMMITTER")
        for name, value in (
            ("NAME", "Lilypad"),
            ("EMAIL", "hub@example.invalid"),
            ("DATE", "1767225600 +0000"),
        )
    }

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "filter.lfs.clean=cat", "-c", "filter.lfs.required=false", *arguments],
            cwd=folder,
            env={**os.environ, **who},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", "-A")
    tree = git("write-tree")
    listed = [line.split("\t") for line in git("ls-tree", "-rt", tree).splitlines()]
    ids = {path: about.split()[2] for about, path in listed}
    assert ids == commit.folders | {path: file.oid for path, file in commit.files.items()}
    return git("commit-tree", tree, "-m", f"Make {repo_id}")
