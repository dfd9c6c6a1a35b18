"""`python -m webhooks.rotation`, interrupted or without a key."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE

from cryptography.fernet import Fernet
from webhook_receiver import KEY, Receiver, Someone

from common.encryption import Encryption
from common.postgres import Database
from common.rotation import BATCH

ROWS = BATCH + 10
# Copies of a webhook, under the numbers from 1.
COPY = """
insert into webhooks select (jsonb_populate_record(w, jsonb_build_object('id', w.id || '_' || n))).*
from webhooks w, generate_series(1000, 999 + %s) n where w.id = %s
"""


async def rotation(url: str, keys: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "DATABASE_URL": url, "ENCRYPTION_KEYS": keys}
    command = [sys.executable, "-m", "webhooks.rotation"]
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)


async def test_secrets_stay_readable_when_a_rotation_is_killed_and_the_next_run_completes_it(
    someone: Someone, receiver: Receiver, database: Database, url: str
) -> None:
    async with database.connection() as connection:  # of other tests, with keys of their own
        await connection.execute("delete from webhooks")
    webhook = await someone.add(receiver.url)
    new = Fernet.generate_key().decode()

    async def count(keys: list[str]) -> int:
        """Count the secrets that one of these keys decrypts."""
        encryption = Encryption(keys)
        async with database.connection() as connection:
            query = "select secret from webhooks where id like %s"
            cursor = await connection.execute(query, [f"{webhook.id}%"])
            rows = await cursor.fetchall()
        texts = [encryption.decrypt(row[0].encode(), webhook.id) for row in rows]
        return texts.count(webhook.secret)

    try:
        async with database.connection() as connection:
            await connection.execute(COPY, [ROWS, webhook.id])
        async with database.connection() as lock:  # the command waits for the last row
            await lock.execute("set local idle_in_transaction_session_timeout = 0")
            last = f"{webhook.id}_{999 + ROWS}"
            await lock.execute("select from webhooks where id = %s for update", [last])
            command = await rotation(url, f"{new},{KEY}")
            async with asyncio.timeout(120):
                while await count([new]) == 0:
                    await asyncio.sleep(0.05)
            with contextlib.suppress(ProcessLookupError):  # it gave up waiting for the row
                command.kill()
            await command.wait()
        assert await count([new]) < await count([new, KEY]) == ROWS + 1
        command = await rotation(url, f"{new},{KEY}")
        said, _ = await command.communicate()
        assert command.returncode == 0, said
        assert b" 0 cannot be decrypted" in said
        assert await count([new]) == ROWS + 1
    finally:
        async with database.connection() as connection:
            await connection.execute("delete from webhooks where id like %s", [f"{webhook.id}%"])


async def test_the_rotation_command_says_which_setting_is_missing(url: str) -> None:
    command = await rotation(url, "")
    _, said = await command.communicate()
    assert command.returncode == 1
    assert said.startswith(b"ENCRYPTION_KEYS is not set")
