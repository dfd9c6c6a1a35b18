"""A git repository over a folder of made files: blobs, trees, commits, branches.

Object ids are git's own, so a commit is a function of the content alone: the same models made
elsewhere have the same commits.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from hub.model import Model

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".zip", ".msgpack")
CLAIMED_SIZES = (
    ".claimed-sizes.json"  # {path: bytes} as the Hub reports them; missing content is zeros
)
DATE = "2026-01-01T00:00:00.000Z"  # of every commit, else commits would differ between makings
SIGNATURE = "Lilypad <hub@example.invalid> 1767225600 +0000"  # the same moment, as git writes it


@dataclass(frozen=True)
class File:
    """A file of a commit: the bytes of `stored`, then zeros up to `size`."""

    path: str
    stored: Path
    size: int

    @cached_property
    def sha256(self) -> str:
        """Digest of the content; for a 400 GB file, of its stored bytes and claimed size."""
        content = self.stored.read_bytes()
        if len(content) != self.size:
            content += f"\n{self.size}".encode()
        return hashlib.sha256(content).hexdigest()

    @property
    def is_lfs(self) -> bool:
        return self.path.endswith(LFS_SUFFIXES)

    @cached_property
    def pointer(self) -> bytes:
        """Return the pointer that git itself stores for an LFS file."""
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.sha256}\nsize {self.size}\n"
        ).encode()

    @cached_property
    def oid(self) -> str:
        return git_object("blob", self.pointer if self.is_lfs else self.stored.read_bytes())

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    sha: str
    files: dict[str, File]  # by path, sorted
    folders: dict[str, str] = field(repr=False)  # tree id by path, without the root


@dataclass
class Repository:
    model: Model
    commits: dict[str, Commit]
    branches: dict[str, str]  # commit by name

    def at(self, revision: str) -> Commit | None:
        """Return the commit that a branch or a 40-hex commit names, or None."""
        return self.commits.get(self.branches.get(revision, revision))


def read_repository(model: Model, folder: Path) -> Repository:
    """Read `folder`, which has one folder per branch."""
    branches = {tree.name: read_commit(model.id, tree) for tree in sorted(folder.iterdir())}
    return Repository(
        model=model,
        commits={commit.sha: commit for commit in branches.values()},
        branches={name: commit.sha for name, commit in branches.items()},
    )


def read_commit(repo_id: str, tree: Path) -> Commit:
    claims = tree / CLAIMED_SIZES
    sizes: dict[str, int] = json.loads(claims.read_text()) if claims.exists() else {}
    files = {}
    for stored in sorted(path for path in tree.rglob("*") if path.is_file() and path != claims):
        path = stored.relative_to(tree).as_posix()
        files[path] = File(path, stored, sizes.get(path, stored.stat().st_size))
    folders = tree_ids(files)
    root = folders.pop("")
    body = f"tree {root}\nauthor {SIGNATURE}\ncommitter {SIGNATURE}\n\nMake {repo_id}\n"
    return Commit(git_object("commit", body.encode()), files, folders)


def tree_ids(files: dict[str, File]) -> dict[str, str]:
    """Return the git tree id of every folder by path; the root is the empty path."""
    entries: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    for path, file in files.items():
        *parents, _ = PurePosixPath(path).parts
        for depth in range(len(parents)):
            entries.setdefault("/".join(parents[: depth + 1]), {})
        entries["/".join(parents)][PurePosixPath(path).name] = ("100644", file.oid)
    ids: dict[str, str] = {}
    for folder in sorted(entries, key=lambda path: path.count("/") + bool(path), reverse=True):
        # git sorts a folder as if its name ended in a slash
        ordered = sorted(
            entries[folder].items(),
            key=lambda item: f"{item[0]}/" if item[1][0] == "40000" else item[0],
        )
        body = b"".join(
            f"{mode} {name}\0".encode() + bytes.fromhex(oid) for name, (mode, oid) in ordered
        )
        ids[folder] = git_object("tree", body)
        if folder:
            parent, _, name = folder.rpartition("/")
            entries[parent][name] = ("40000", ids[folder])
    return ids


def git_object(kind: str, body: bytes) -> str:
    header = f"{kind} {len(body)}\0".encode()
    return hashlib.sha1(header + body, usedforsecurity=False).hexdigest()
