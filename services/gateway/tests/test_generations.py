"""The list of modules that an account generated."""

import asyncio
import contextlib

import psycopg
import pytest

from common.contracts.generation import GenerateOptions, GenerateRequest, ModelFacts
from common.errors import InvalidRequest
from common.postgres import Database
from gateway import generations
from gateway.generations import Generation, GenerationLog, GenerationsRequest
from gateway.routes import verifications

from .conftest import Desk

ASKED = GenerateRequest(model_url="a/b", options=GenerateOptions(batch_size=4))
MODEL = ModelFacts(
    id="a/b",
    commit="c" * 40,
    task="text-classification",
    library="transformers",
    license=None,
    parameters=None,
    weight_bytes=0,
    vram_mib=0,
    vram_source="headers",
)


async def listed(log: GenerationLog, account: str) -> list[Generation]:
    return (await log.page(account, GenerationsRequest())).generations


async def test_modules_are_listed_newest_first_with_a_request_that_regenerates_each(
    desk: Desk,
) -> None:
    log = desk.guards.generations
    (account, _), (stranger, _) = await desk.key(), await desk.key()
    log.add(account, "generate", ASKED, MODEL, "d1")
    log.add(account, "download", ASKED, MODEL, None)
    for _ in range(2):  # a retry joined it
        log.add(account, "verify", ASKED, MODEL, "d3", "run_1")
    generations = await listed(log, account)
    assert [(generation.kind, generation.digest) for generation in generations] == [
        ("verify", "d3"),
        ("download", ""),
        ("generate", "d1"),
    ]
    assert generations[0].verification == "run_1"
    for generation in generations:
        assert (generation.model_id, generation.commit, generation.task) == (
            MODEL.id,
            MODEL.commit,
            MODEL.task,
        )
        assert generation.request == ASKED.model_copy(update={"revision": MODEL.commit})
    assert await listed(log, stranger) == []
    first = await log.page(account, GenerationsRequest(limit=2))
    rest = await log.page(account, GenerationsRequest(limit=2, before=first.next))
    assert first.generations + rest.generations == generations
    assert rest.next is None


async def test_the_module_list_survives_a_failed_write_and_a_deleted_account(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "MAX_WRITTEN_AT_ONCE", 1)
    log = desk.guards.generations
    (account, _), (gone, _) = await desk.key(), await desk.key()
    log.add(gone, "generate", ASKED, MODEL, "d2")
    log.add(account, "generate", ASKED, MODEL, "d1")
    async with database.connection() as connection:
        await connection.execute("delete from accounts where id = %s", [gone])
    with monkeypatch.context() as patched:
        patched.setattr(generations, "FLUSH", "insert into generations values (%s)")
        with pytest.raises(psycopg.Error):
            await log.flush()
    assert [generation.digest for generation in await listed(log, account)] == ["d1"]
    assert await listed(log, gone) == []


async def test_the_newest_modules_are_kept_while_the_database_is_unavailable(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "MAX_UNWRITTEN", 3)
    log = GenerationLog(desk.guards.generations.database)
    account, _ = await desk.key()
    with monkeypatch.context() as patched:
        patched.setattr(generations, "FLUSH", "insert into generations values (%s)")
        for number in range(5):
            log.add(account, "generate", ASKED, MODEL, f"d{number}")
            with pytest.raises(psycopg.Error):
                await log.flush()
    assert [generation.digest for generation in await listed(log, account)] == ["d4", "d3", "d2"]


async def test_the_module_list_is_written_when_the_gateway_stops(
    desk: Desk, database: Database
) -> None:
    account, _ = await desk.key()
    flushing = asyncio.create_task(desk.guards.generations.keep_flushing())
    await asyncio.sleep(0)
    desk.guards.generations.add(account, "generate", ASKED, MODEL, "d1")
    flushing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await flushing
    assert [generation.digest for generation in await listed(GenerationLog(database), account)] == [
        "d1"
    ]


def test_the_refusal_of_verify_names_the_field_once() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        verifications.refuse(GenerateRequest(model_url="a/b", verify=True))
    [fault] = refusal.value.details["fields"]
    assert refusal.value.message == f"verify: {fault['message']}"
    assert not fault["message"].startswith("verify:")
