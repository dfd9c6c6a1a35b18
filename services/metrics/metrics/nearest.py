"""The search for the known model id most similar to a misspelt one."""

import difflib
import heapq
import operator
from collections.abc import Sequence
from itertools import takewhile

# A longer id cannot be a misspelling. The bounds limit a search to some milliseconds.
MAX_CHARACTERS = 100
# Ids whose letters are compared, and those of them that are then aligned, which is quadratic.
MAX_COMPARED = 300
MAX_ALIGNED = 4
# Least similarity of a misspelt id, as difflib counts it.
MIN_SIMILARITY = 0.75
HUB = "https://huggingface.co/"


def may_be_misspelt(written: str) -> bool:
    """Return whether an id is short enough for a comparison."""
    return len(written.removeprefix(HUB)) <= MAX_CHARACTERS


def nearest(written: str, known: Sequence[str]) -> str | None:
    """Return the known id most similar to a misspelt id or URL; None if none is similar.

    Only the first `MAX_COMPARED` known ids are considered.
    """
    if not may_be_misspelt(written):
        return None
    matcher: difflib.SequenceMatcher[str] = difflib.SequenceMatcher()
    written = written.removeprefix(HUB)
    matcher.set_seq2(written)
    bounds: list[tuple[float, int, str]] = []
    for name in known[:MAX_COMPARED]:
        if len(name) > MAX_CHARACTERS:
            continue
        matcher.set_seq1(name)
        # Both are upper bounds of the similarity, by the lengths and by the letters.
        if matcher.real_quick_ratio() >= MIN_SIMILARITY:
            # Of ids with the same letters, a misspelt one mostly begins alike.
            alike = len(list(takewhile(bool, map(operator.eq, written, name))))
            bounds.append((matcher.quick_ratio(), alike, name))
    best, most = None, MIN_SIMILARITY
    for bound, _, name in heapq.nlargest(MAX_ALIGNED, bounds, key=lambda found: found[:2]):
        if bound < most:
            break
        matcher.set_seq1(name)
        if (similarity := matcher.ratio()) >= most and (best is None or similarity > most):
            best, most = name, similarity
    return best
