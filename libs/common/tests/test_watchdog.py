"""The watchdog, in a separate process, which it ends."""

import subprocess
import sys

HANG = """
import asyncio, time
from common import watchdog

async def main():
    async with watchdog.watch():
        await asyncio.sleep(1.5 * watchdog.MAX_HANG_S)
        print("served", flush=True)
        time.sleep(600)

watchdog.MAX_HANG_S, watchdog.BEAT_INTERVAL_S = 5.0, 0.1
asyncio.run(main())
"""


def test_a_process_with_a_hung_loop_exits_with_its_stacks() -> None:
    ended = subprocess.run([sys.executable, "-c", HANG], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"served\n")
    assert b'File "<string>", line 9 in main' in ended.stderr
