"""Every pipeline tag of the Hub is served or refused, and the documentation lists which."""

from pathlib import Path

from models import tags
from models.tags import REFUSED, SERVABLE, TAGS
from models.tasks import LIBRARIES, rows_of

PAGE = Path(__file__).parents[3] / "docs/reference/tasks.md"
# Tags that no library of the modules covers.
UNREACHABLE = {
    *("audio-to-audio", "voice-activity-detection", "tabular-classification"),
    *("tabular-regression", "tabular-to-text", "table-to-text", "reinforcement-learning"),
    *("robotics", "graph-ml"),
}


def test_the_table_has_the_hubs_56_tags_once_each() -> None:
    assert len(TAGS) == len(set(TAGS)) == 56
    assert set(REFUSED) == UNREACHABLE <= set(TAGS)


def test_all_47_tags_that_a_library_covers_are_served() -> None:
    assert {tag for tag in TAGS if rows_of(tag)} == set(TAGS) - UNREACHABLE
    assert len(set(TAGS) - UNREACHABLE) == 47


def test_every_row_has_a_tag_of_the_hub() -> None:
    assert {tag for rows in LIBRARIES.values() for tag in rows} <= set(SERVABLE)


def test_no_tag_is_both_served_and_refused() -> None:
    assert not {tag for tag in REFUSED if rows_of(tag)}


def test_the_page_of_all_tags_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == tags.page()
