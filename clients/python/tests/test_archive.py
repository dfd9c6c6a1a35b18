import errno
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest
from scripted import Service

from lilypad_client import APIConnectionError, ArchiveError, LilypadClient
from lilypad_client.archive import extract


def test_a_download_is_complete_or_absent(service: Service, tmp_path: Path) -> None:
    content = b"PK" + bytes(range(256))
    tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    service.answer(content, headers=tag)
    service.answer(content[:-1], headers=tag)
    with LilypadClient("k", service.url) as client:
        assert client.download("a/b", tmp_path / "one.zip").read_bytes() == content
        with pytest.raises(ArchiveError, match="incomplete or was changed"):
            client.download("a/b", tmp_path / "two.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["one.zip"]


def test_an_interrupted_download_restarts_from_its_first_byte(
    service: Service, pauses: list[float], tmp_path: Path
) -> None:
    content = b"PK" + bytes(range(256))
    tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    service.answer(content, headers=tag, half=True)
    service.answer(content, headers=tag)
    with LilypadClient("k", service.url) as client:
        assert client.download("a/b", tmp_path / "one.zip").read_bytes() == content
    assert len(pauses) == 1


def test_a_download_keeps_symlinks_respects_the_umask_and_refuses_devices(
    service: Service, tmp_path: Path
) -> None:
    content = _zip(("module/Dockerfile", b"FROM x")).getvalue()
    tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    service.answer(content, headers=tag)
    service.answer(content, headers=tag)
    (tmp_path / "link").symlink_to("one.zip")
    umask = os.umask(0o027)
    with LilypadClient("k", service.url) as client:
        client.download("a/b", tmp_path / "link")
        client.download("a/b", tmp_path / "folder", extract=True)
        with pytest.raises(ValueError, match="/dev/null"):
            client.download("a/b", "/dev/null")
    os.umask(umask)
    assert (tmp_path / "link").readlink() == Path("one.zip")
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("one.zip", "folder")}
    assert modes == {"one.zip": 0o640, "folder": 0o750}
    assert (tmp_path / "folder" / "module" / "Dockerfile").read_bytes() == b"FROM x"


def test_an_oversized_answer_is_an_error_and_leaves_no_file(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lilypad_client.transport.MAX_ANSWER_BYTES", 1000)
    with LilypadClient("k", service.url, max_retries=0) as client:
        for call in (client.generate_module, lambda url: client.download(url, tmp_path / "x")):
            service.answer(bytes(2000))
            with pytest.raises(APIConnectionError, match="larger than 1000 bytes"):
                call("a/b")
    assert list(tmp_path.iterdir()) == []


def _zip(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file


def _patched(entry: dict[int, int], listed: dict[int, int]) -> io.BytesIO:
    """Return an archive with bytes changed in its entry's header or content, and its directory."""
    archive = bytearray(_zip(("file", b"content" * 9)).getvalue())
    directory = archive.index(b"PK\1\2")
    for start, changes in ((0, entry), (directory, listed)):
        for at, byte in changes.items():
            archive[start + at] = byte
    return io.BytesIO(archive)


def _link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    return entry


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (_zip(("../evil", b"x")), "outside"),
        (_zip(("/tmp/evil", b"x")), "outside"),
        (_zip((_link(), b"/etc/passwd")), "link"),
        (_zip(("a", b"x"), ("A", b"y")), "twice"),
        (_zip(("bomb", bytes(60_000_000))), "more than"),
        (_zip(*((f"f{n}", b"") for n in range(101))), "more than"),
        (_zip(("a", b"x"), ("a/b", b"y")), "twice"),
        (_zip((".", b"x")), "outside"),
        (_patched({6: 1}, {8: 1}), "encrypted"),
        (_patched({8: 12}, {10: 12}), "compressed"),
        (_patched({35: 0xFF}, {}), "damaged"),
        (_patched({}, {6: 99}), "damaged"),
        (io.BytesIO(b"PK nonsense"), "zip"),
    ],
)
def test_a_crafted_archive_is_refused_and_nothing_is_written(
    tmp_path: Path, archive: io.BytesIO, why: str
) -> None:
    (tmp_path / "a.zip").write_bytes(archive.getvalue())
    with pytest.raises(ArchiveError, match=why):
        extract(tmp_path / "a.zip", tmp_path / "module")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_an_archive_is_extracted_into_a_new_folder_without_copying_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space for a second copy")

    (tmp_path / "a.zip").write_bytes(_zip(("file", b"x")).getvalue())
    monkeypatch.setattr("shutil.copyfile", copy)
    assert (extract(tmp_path / "a.zip", tmp_path / "module") / "file").read_bytes() == b"x"
