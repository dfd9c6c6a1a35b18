"""A cache folder of the catalogue's models, which are made once.

`python -m hub.making FOLDER ID...` is the part that needs torch; it runs as a process of its own,
so that the server stays small, and knows nothing of atomicity: `made` renames what it finished.
"""

import fcntl
import hashlib
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from hub.catalogue import MODELS
from hub.model import Model
from hub.repository import LFS_SUFFIXES

MAKERS = (
    *("families.py", "media.py", "sounds.py", "pipelines.py", "painters.py", "seeing.py"),
    *(
        "awkward.py",
        "gguf.py",
        "gguf_encoders.py",
        "gguf_rankers.py",
        "graphs.py",
        "lifelike.py",
        "making.py",
        "packed.py",
        "vision.py",
        *("adapters.py", "sentences.py", "weightless.py"),
    ),
)


def make_missing(models: Iterable[Model], models_dir: Path) -> dict[str, Path]:
    """Make missing models; map each id to its folder, which has a subfolder per branch.

    A model lies under a digest of its row, of the makers' source and of the libraries' versions:
    an edit of any makes it anew. Raises `subprocess.CalledProcessError` if a maker fails.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    folders = {model.id: models_dir / f"{model.id}-{recipe(model)}" for model in models}
    if all(folder.exists() for folder in folders.values()):
        return folders
    with locked(models_dir):
        missing = [name for name, folder in folders.items() if not folder.exists()]
        if missing:
            make_all(missing, folders, models_dir)
    return folders


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder, so that concurrent processes make each model once."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def make_all(names: list[str], folders: Mapping[str, Path], models_dir: Path) -> None:
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".making-") as scratch:
        subprocess.run(
            [sys.executable, "-m", "hub.making", scratch, *names], env=quiet(), check=True
        )
        for name in names:
            folders[name].parent.mkdir(exist_ok=True)
            (Path(scratch) / name).rename(folders[name])


def recipe(model: Model) -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256(repr(model).encode())
    for file in MAKERS:
        digest.update((here / file).read_bytes())
    libraries = ("torch", "transformers", "diffusers", "safetensors", "sentencepiece", "tokenizers")
    for library in libraries:
        digest.update(version(library).encode())
    return digest.hexdigest()[:12]


def quiet() -> dict[str, str]:
    """Return the environment of a maker process: this package, no network, few log lines."""
    package_root = str(Path(__file__).parents[1])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "OMP_NUM_THREADS": "1",  # the models are too small for more
    }


def make(model: Model, folder: Path) -> None:
    """Write each branch of a model to `folder`."""
    maker = pkgutil.resolve_name(f"hub.{model.maker}")
    for branch, options in model.branches.items():
        if torch := sys.modules.get("torch"):  # imported only by the makers that need it
            torch.manual_seed(zlib.crc32(f"{model.id}@{branch}".encode()))
        tree = folder / branch
        tree.mkdir(parents=True)
        (tree / "README.md").write_text(card(model), encoding="utf-8")
        (tree / ".gitattributes").write_text(
            "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        )
        maker(tree, **options)


def card(model: Model) -> str:
    usual: Mapping[str, Any] = {
        "language": ["en"],
        "license": "apache-2.0",
        "library_name": model.library,
        "pipeline_tag": model.task,
    }
    fields = {name: value for name, value in {**usual, **model.card}.items() if value is not None}
    title = model.id.split("/")[-1]
    front = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n# {title}\n\n{model.about}\n"


def main(scratch: Path, ids: list[str]) -> None:
    by_id = {model.id: model for model in MODELS}
    for number, name in enumerate(ids, start=1):
        started = time.perf_counter()
        make(by_id[name], scratch / name)
        took = time.perf_counter() - started
        print(f"[{number}/{len(ids)}] made {name} in {took:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
