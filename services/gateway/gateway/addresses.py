"""Suggestions for unknown paths: the nearest known path."""

import difflib
from collections.abc import Iterable

# A longer path cannot be a misspelling. The bounds limit a search to about a millisecond.
MAX_CHARACTERS = 200
MAX_SEGMENTS = 8
# Least similarity of a misspelt segment, as difflib counts it.
MIN_SIMILARITY = 0.7
VERSIONS = ("v1", "v2")


class Addresses:
    """The paths of all routes, by their number of segments."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths_by_length: dict[int, list[list[str]]] = {}
        for path in sorted(paths):
            segments = _segments(path)
            self._paths_by_length.setdefault(len(segments), []).append(segments)

    def nearest(self, path: str) -> str | None:
        """Return the path that the caller may have meant, with the names of its parameters."""
        written = _segments(path)
        if len(path) > MAX_CHARACTERS or not 0 < len(written) <= MAX_SEGMENTS:
            return None
        known: dict[tuple[str, str], float] = {}
        best: list[str] = []
        highest = 0.0
        for wanted in _variants([segment.lower() for segment in written]):
            for candidate in self._paths_by_length.get(len(wanted), ()):
                likeness = _likeness(wanted, candidate, known)
                if likeness > highest and not _matches(path, candidate):
                    best, highest = candidate, likeness
        return "/" + "/".join(best) if best else None


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _variants(wanted: list[str]) -> list[list[str]]:
    """Return the segments, and a variant with `api`, or the version and `api`, inserted."""
    if wanted[0] in VERSIONS:
        return [wanted, [wanted[0], "api", *wanted[1:]]]
    return [wanted, ["v1", "api", *wanted]]


def _matches(path: str, candidate: list[str]) -> bool:
    """Return whether the path already matches the candidate, whose parameters match anything."""
    written = path.split("/")[1:]
    return len(written) == len(candidate) and all(
        _is_parameter(segment) or typed == segment
        for typed, segment in zip(written, candidate, strict=True)
    )


def _likeness(
    wanted: list[str], candidate: list[str], known: dict[tuple[str, str], float]
) -> float:
    """Return the mean similarity of the segments; 0 if one is not similar."""
    total = 0.0
    for pair in zip(wanted, candidate, strict=True):
        typed, segment = pair
        if typed == segment:
            total += 1
        elif not _is_parameter(segment):
            if pair not in known:
                matcher = difflib.SequenceMatcher(None, typed, segment)
                # Lengths are compared first, which is a hundred times faster.
                is_near = matcher.real_quick_ratio() >= MIN_SIMILARITY
                known[pair] = matcher.ratio() if is_near else 0.0
            if known[pair] < MIN_SIMILARITY:
                return 0.0
            total += known[pair]
    return total / len(wanted)


def _is_parameter(segment: str) -> bool:
    return segment.startswith("{")
