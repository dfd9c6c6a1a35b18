"""Backups of a home: their content, and the reasons for refusal."""

import asyncio
import json
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nats
import nats.errors
import psycopg
import pytest
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from local import backup, streams
from local.__main__ import main
from local.services import Service
from local.stack import Stack

SERVICES = [Service("gateway", replicas=0, database=True)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backup") / "home"


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[Stack]:
    with Stack(home, servers={"nats", "postgres"}, services=SERVICES) as running:
        yield running


async def queue(stack: Stack) -> None:
    """Queue two jobs and acknowledge the first; create counters and a stream in memory too."""
    client = await nats.connect(stack.nats.url("benchmarker"), inbox_prefix="_INBOX.benchmarker")
    jobs = client.jetstream()
    await jobs.add_stream(
        StreamConfig("JOBS", subjects=["job.>"], retention=RetentionPolicy.WORK_QUEUE)
    )
    await jobs.add_stream(
        StreamConfig("PASSING", subjects=["event.benchmark.>"], storage=StorageType.MEMORY)
    )
    await jobs.add_consumer("JOBS", ConsumerConfig(durable_name="cpu"))
    for text in (b"done", b"waits" * 100_000):
        await jobs.publish("job.benchmarker.measure.cpu", text)
    await client.close()
    await next_job(stack)
    client = await nats.connect(stack.nats.url("gateway"), inbox_prefix="_INBOX.gateway")
    await client.jetstream().add_stream(StreamConfig("LIMITS_60", subjects=["limit.60.>"]))
    await client.close()


async def dead_letters(stack: Stack) -> None:
    """Return the configuration of a stream on disk."""
    client = await nats.connect(stack.nats.url("benchmarker"), inbox_prefix="_INBOX.benchmarker")
    await client.jetstream().add_stream(StreamConfig("DEAD", subjects=["dead.>"]))
    await client.close()


async def next_job(stack: Stack) -> tuple[bytes, int]:
    """Acknowledge the queue consumer's next job; return its payload and sequence number."""
    client = await nats.connect(stack.nats.url("worker"), inbox_prefix="_INBOX.worker")
    jobs = client.jetstream()
    [message] = await (await jobs.pull_subscribe_bind("cpu", "JOBS")).fetch(1)
    await message.ack_sync()
    await client.close()
    return message.data, message.metadata.sequence.stream


def test_a_backup_of_a_serving_stack_restores_rows_jobs_and_passwords(
    stack: Stack, home: Path
) -> None:
    with psycopg.connect(stack.postgres.url("gateway")) as gateway:
        gateway.execute("create table accounts (id serial primary key, name text)")
        gateway.execute("insert into accounts (name) values ('Ada'), ('Bo')")
    asyncio.run(queue(stack))
    folder = home.with_name("saved")
    backup.save(home, folder)
    with psycopg.connect(stack.postgres.url("gateway")) as gateway:
        gateway.execute("delete from accounts")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {"database.dump", "secrets", "streams/JOBS.json", "streams/JOBS.snapshot"}
    expected |= {"manifest.json"}
    assert files == expected
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    # As `make` leaves it: a folder with caches.
    restored = home.with_name("restored")
    (restored / "tmp").mkdir(parents=True)
    backup.restore(folder, restored)
    assert {path.name for path in restored.iterdir()} == {"nats", "postgres", "secrets", "tmp"}
    with Stack(restored, servers={"nats", "postgres"}, services=SERVICES) as again:
        with psycopg.connect(again.postgres.url("gateway")) as gateway:
            gateway.execute("insert into accounts (name) values ('Cy')")
            rows = gateway.execute("select id, name from accounts order by id").fetchall()
        job = asyncio.run(next_job(again))
    assert rows == [(1, "Ada"), (2, "Bo"), (3, "Cy")]
    assert job == (b"waits" * 100_000, 2)
    assert (
        again.postgres.url("gateway").split("@")[0] == stack.postgres.url("gateway").split("@")[0]
    )


def test_a_backup_that_fails_leaves_no_folder(stack: Stack, home: Path) -> None:
    damaged = home.with_name("damaged")
    (damaged / "streams").mkdir(parents=True)
    (damaged / "database.dump").write_bytes(b"PGDMP and nothing else")
    (damaged / "secrets").write_text(json.dumps({}))
    (damaged / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(backup.Failed, match="pg_restore"):
        backup.restore(damaged, home.with_name("of-damaged"))
    assert not [path for path in home.parent.iterdir() if "of-damaged" in path.name]
    stack.stop("postgres")
    try:
        with pytest.raises(backup.Failed, match="pg_dump"):
            backup.save(home, home.with_name("without"))
    finally:
        stack.restart("postgres")
    assert not [path for path in home.parent.iterdir() if "without" in path.name]


def test_a_backup_with_a_missing_or_truncated_file_is_refused(stack: Stack, home: Path) -> None:
    folder, target = home.with_name("complete"), home.with_name("of-incomplete")
    asyncio.run(dead_letters(stack))
    backup.save(home, folder)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert {"manifest.json", "streams/DEAD.json", "streams/DEAD.snapshot"} < {*names}
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(backup.Failed, match=f"no complete backup.*{name}"):
            backup.restore(folder, target)
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(backup.Failed, match=f"no complete backup.*{name}"):
            backup.restore(folder, target)
        (folder / name).write_bytes(content)
    assert not target.exists()


def test_a_failed_backup_or_restore_prints_the_cause_as_a_sentence(
    stack: Stack,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(error: BaseException) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise error

        return fail

    def said(command: str, folder: Path, target: Path) -> str:
        monkeypatch.setenv("LILYPAD_HOME", str(target))
        assert main([command, str(folder)]) == 1
        return " ".join(capsys.readouterr().err.split())

    errors = {
        "NATS does not answer": nats.errors.NoServersError(),
        "stream name already in use": streams.Refused("stream name already in use"),
        "/full: No space left": OSError(28, "No space left on device", "/full"),
    }
    backup.save(home, tmp_path / "saved")
    for words, error in errors.items():
        with monkeypatch.context() as broken:
            broken.setattr(streams, "save", refuse(error))
            text = said("backup", tmp_path / "new", home)
            assert text.startswith("Not backed up: ")
            assert words in text
    monkeypatch.setattr(streams, "restore", refuse(nats.errors.NoServersError()))
    text = said("restore", tmp_path / "saved", tmp_path / "home")
    assert text.startswith("Not restored: NATS does not answer")
    for name in ("ports", "secrets"):
        (home / name).rename(tmp_path / name)
        try:
            assert name in said("backup", tmp_path / "new", home)
        finally:
            (tmp_path / name).rename(home / name)
    content = (home / "secrets").read_bytes()
    (home / "secrets").write_bytes(content[:-9])
    try:
        assert "`secrets` is damaged" in said("backup", tmp_path / "new", home)
    finally:
        (home / "secrets").write_bytes(content)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(backup, "save", refuse(KeyboardInterrupt()))
        assert main(["backup", str(tmp_path / "new")]) == 130
    (tmp_path / "file").touch()
    assert "file" in said("backup", tmp_path / "file" / "new", home)
    assert not (tmp_path / "new").exists()


def test_a_backup_says_that_encryption_keys_of_the_environment_are_not_in_it(
    stack: Stack, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(folder: str) -> str:
        monkeypatch.setenv("LILYPAD_HOME", str(home))
        assert main(["backup", str(home.with_name(folder))]) == 0
        return capsys.readouterr().out

    assert "ENCRYPTION_KEYS" in said("keys-1"), "it never made a key"
    stack.environment_of(replace(SERVICES[0], encrypts=True, replicas=1))
    assert "ENCRYPTION_KEYS" not in said("keys-2")
    monkeypatch.setenv("ENCRYPTION_KEYS", "a key")
    assert "ENCRYPTION_KEYS" in said("keys-3")


def test_a_backup_and_a_restore_delete_no_folder_that_they_did_not_create(
    stack: Stack, home: Path
) -> None:
    for name in ("twice.new", "again.new"):
        home.with_name(name).mkdir()
        (home.with_name(name) / "mine").touch()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: backup.save(home, home.with_name(name)), ("twice", "beside")))
    backup.restore(home.with_name("twice"), home.with_name("again"))
    for name in ("twice.new", "again.new"):
        assert (home.with_name(name) / "mine").exists(), name
    assert not [path for path in home.parent.iterdir() if path.name.startswith(".")]


def test_an_empty_home_is_not_backed_up_and_data_is_not_overwritten_by_a_restore(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LILYPAD_HOME", str(tmp_path))
    for arguments, why in (
        (["backup", str(tmp_path / "new")], "there is nothing to back up"),
        (["restore", str(tmp_path)], "is no complete backup"),
    ):
        assert main(arguments) == 1
        assert why in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    for name in ("postgres", "nats", "secrets"):
        (tmp_path / name).mkdir()
        assert main(["restore", str(tmp_path)]) == 1
        assert f"{tmp_path / name} exists" in " ".join(capsys.readouterr().err.split())
        (tmp_path / name).rmdir()
    assert main(["backup"]) == 2
