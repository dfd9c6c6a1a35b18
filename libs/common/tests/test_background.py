import asyncio
import gc

import pytest
from structlog.testing import capture_logs

from common import background
from common.background import Background, lasting, retry


async def test_a_task_is_referenced_until_it_ends() -> None:
    tasks = Background()
    may_end = asyncio.Event()

    async def work() -> None:
        await may_end.wait()

    task = tasks.start(work())
    gc.collect()
    assert list(tasks) == [task]
    may_end.set()
    await task
    await asyncio.sleep(0)  # the callback of the end
    assert len(tasks) == 0


async def test_a_retry_returns_the_result_once_its_dependency_is_available() -> None:
    attempts = 0

    async def connect() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("refused")
        return attempts

    assert await retry(connect, OSError, waiting_for="the server", pause_s=0) == 3


async def test_a_retry_fails_after_its_timeout_or_on_another_error() -> None:
    async def connect() -> None:
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        await retry(connect, OSError, waiting_for="the server", pause_s=0.01, timeout_s=0.05)
    with pytest.raises(OSError, match="refused"):
        await retry(connect, ValueError, waiting_for="the server")


async def test_a_retry_logs_an_error_again_only_when_it_changes() -> None:
    errors = iter(["refused", "refused", "refused", "starting"])

    async def connect() -> None:
        for error in errors:
            raise OSError(error)

    with capture_logs() as lines:
        await retry(connect, OSError, waiting_for="the server", pause_s=0)
    assert [line["error"] for line in lines] == ["refused", "starting"]


async def for_ever() -> None:
    await asyncio.Event().wait()


async def returns() -> None: ...


async def fails() -> None:
    raise OSError("gone")


@pytest.mark.parametrize(("work", "error"), [(returns, RuntimeError), (fails, OSError)])
async def test_background_work_that_ends_raises_an_error_in_its_process(work, error) -> None:
    with pytest.raises(error, match=r"returns|gone"):
        async with lasting(for_ever(), work()) as ended:
            await ended


async def test_background_work_is_canceled_when_its_block_ends() -> None:
    canceled = False

    async def work() -> None:
        nonlocal canceled
        try:
            await for_ever()
        except asyncio.CancelledError:
            canceled = True
            raise

    async with lasting(work()) as ended:
        await asyncio.sleep(0)
        assert not ended.done()
    assert canceled


async def test_canceled_background_work_can_finish_a_last_write() -> None:
    written = False

    async def work() -> None:
        nonlocal written
        try:
            await for_ever()
        finally:
            await asyncio.sleep(1.5)
            written = True

    async with lasting(work()):
        await asyncio.sleep(0)
    assert written


async def test_background_work_that_loses_a_cancellation_is_canceled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "CANCEL_AGAIN_AFTER_S", 0.1)
    cancellations = 0

    async def lose_one() -> None:
        nonlocal cancellations
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancellations += 1
                if cancellations == 2:
                    raise

    async with lasting(lose_one()):
        await asyncio.sleep(0)
    assert cancellations == 2


async def test_work_beside_a_block_is_repeated_although_it_fails_in_an_unforeseen_way() -> None:
    rounds = 0
    twice = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            twice.set()
        raise KeyError(rounds)

    async with background.alongside(work, every_s=0):
        await asyncio.wait_for(twice.wait(), 30)
    ended = rounds
    await asyncio.sleep(0.05)
    assert rounds == ended
