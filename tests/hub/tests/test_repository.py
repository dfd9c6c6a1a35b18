import subprocess
from pathlib import Path

from hub.catalogue import MODELS
from hub.making import made
from hub.repository import read_repository
from hub.testing import RunningHub, default_models_dir


def test_object_ids_are_those_of_git_itself(hub: RunningHub, tmp_path: Path):
    (model,) = (model for model in MODELS if model.id == "lilypad/tiny-sentence-similarity")
    repository = read_repository(model, made([model], default_models_dir())[model.id])
    commit = repository.at("main")
    for path, file in commit.files.items():
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        # git-lfs would put the pointer in the place of the content; it is not needed here
        target.write_bytes(file.pointer if file.is_lfs else file.stored.read_bytes())

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout

    git("init", "-q")
    git("-c", "filter.lfs.clean=cat", "-c", "filter.lfs.required=false", "add", "-A")
    listed = git("ls-tree", "-rt", git("write-tree").strip()).splitlines()
    ids = {
        path: kind_and_id.split()[2] for kind_and_id, path in (row.split("\t") for row in listed)
    }
    assert ids == commit.folders | {path: file.oid for path, file in commit.files.items()}
