"""The code blocks of the README and of every page under docs/."""

import html
import json
import re
import shutil
import zipfile
from pathlib import Path

import httpx2
import pytest

from integration.caller import PASSWORD, Account
from integration.pages import PAGES, READ, ROOT, RUN, Block, World, blocks, programs
from local.stack import Stack

COMMAND = re.compile(r"\s*(curl|docker|kubectl|lilypad|make|node|npm|pip|python3?) ")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if programs(ROOT / name)])
def test_the_programs_of_a_page_run_unchanged(
    stack: Stack, account: Account, tmp_path: Path, name: str
) -> None:
    world = World(stack.url, account, tmp_path)
    for program in programs(ROOT / name):
        if program.language == "sh" and not shutil.which("curl"):
            pytest.fail("curl is missing: apt-get install curl")
        world.run(program)
    for archive in tmp_path.rglob("*.zip"):
        assert zipfile.is_zipfile(archive), archive.read_bytes()[:500]


@pytest.mark.parametrize("name", NAMES)
def test_every_block_of_a_page_names_its_language_and_is_well_formed(name: str) -> None:
    for block in blocks(ROOT / name):
        where = f"{name}:{block.number}"
        assert block.language in (*RUN, *READ), f"{where}: not a language that tests know"
        command = block.language == "text" and COMMAND.match(block.lines)
        assert not command, f"{where}: a command is sh"
        if block.language == "json":
            documents, rest = 0, block.lines.strip()
            while rest:
                _, end = json.JSONDecoder().raw_decode(rest)
                documents, rest = documents + 1, rest[end:].strip()
            assert documents, f"{where}: no JSON"
        for line in re.sub(r"\\\n\s*", "", block.lines).splitlines():
            if "curl" in line and re.search(r" (-o|--output|-O) ", line):
                assert "--fail-with-body" in line, f"{where}: an error would be called a file"


@pytest.mark.parametrize("name", NAMES)
def test_no_page_hides_a_command_in_an_indented_block(name: str) -> None:
    text = re.sub(
        r"^( *)```.*?^\1```$", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL
    )
    hidden = re.findall(r"(?:^|\n)\n {4}((?:curl|pip|make|python|lilypad|npm|node) .*)", text)
    assert not hidden, f"{name}: put it into a fence of sh"


def test_the_commands_on_the_start_page_and_the_dashboard_run_unchanged(
    stack: Stack, account: Account, tmp_path: Path
) -> None:
    world = World(stack.url, account, tmp_path)
    login = {"email": account.email, "password": PASSWORD}
    form = {"name": "sample", "scopes": ["generate"], "expires": "30", "number": "1"}
    page_itself = {"Sec-Fetch-Site": "same-origin"}
    with httpx2.Client(base_url=stack.url, headers=page_itself, timeout=60) as browser:
        cookie = browser.post("/login", data=login).headers["set-cookie"].partition(";")[0]
        start = browser.get("/").text
        answer = browser.post("/dashboard/keys", data=form, headers={"Cookie": cookie}).text
    for page, expected in ((start, 3), (answer, 1)):
        lines = [
            html.unescape(block) for block in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
        ]
        calls = [line for line in lines if line.startswith("curl")]
        assert len(calls) == expected
        for number, line in enumerate(calls):
            world.run(Block("sh", line, number))
    assert zipfile.is_zipfile(world.folder / "module.zip")


def test_the_monitoring_page_shows_what_its_own_blocks_record(
    stack: Stack, account: Account, tmp_path: Path
) -> None:
    record, monitor = programs(ROOT / "docs/how-to/monitor.md")[:2]
    world = World(stack.url, account, tmp_path)
    world.run(record)
    answer = json.loads(world.run(monitor))
    assert answer["data"]["statistics"]["latency"]["count"] == 1
