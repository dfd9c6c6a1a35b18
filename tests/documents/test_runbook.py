"""Commands of the operators' guides: file permissions, and deletion of passwords."""

import re
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
BLOCKS = {
    f"{name}-{number}": block
    for name in ("runbook", "operate")
    for number, block in enumerate(
        re.findall(r"```sh\n(.*?)```", (HOW_TO / f"{name}.md").read_text(), re.DOTALL)
    )
}


@pytest.mark.parametrize("name", BLOCKS)
def test_secrets_and_dumps_are_readable_only_by_their_owner(name: str) -> None:
    block = BLOCKS[name]
    if re.search(r"> ?\S+\.(yaml|sql|dump)|tar ", block):
        assert block.startswith("umask 077")


@pytest.mark.parametrize("name", BLOCKS)
def test_a_file_with_passwords_for_the_database_is_deleted_after_its_use(name: str) -> None:
    block = BLOCKS[name]
    for file in re.findall(r"(?:-f|<) (\S+\.sql)", block):
        assert f"rm {file}" in block


def test_a_restore_on_one_host_calls_timescaledbs_restore_functions() -> None:
    [block] = [block for block in BLOCKS.values() if "pg_restore" in block]
    steps = ["createdb", "timescaledb_pre_restore", "pg_restore", "timescaledb_post_restore"]
    places = [block.index(step + " " * (step == "pg_restore")) for step in steps]
    assert places == sorted(places)
    assert "--clean" not in block


def test_a_rotation_in_a_cluster_restarts_every_holder_of_a_password() -> None:
    [block] = [block for block in BLOCKS.values() if "name=nats" in block]
    for words in ("-f rotate.sql", "name=worker", "rollout restart deployment", "rollout status"):
        assert words in block
