"""The model that a caller may have meant by an id that does not exist on the Hub."""

import asyncio
import difflib

from common.errors import ServiceError
from generator.hub import Hub, NoSuchModel

# How long a refusal waits for its suggestion.
SUGGEST_TIMEOUT_S = 3.0
# Minimum similarity at which one id may be a misspelling of another.
MIN_LIKENESS = 0.75


async def add(hub: Hub, id: str, error: NoSuchModel) -> NoSuchModel:
    """Add the nearest id that the Hub's search finds to the error, if there is one."""
    try:
        async with asyncio.timeout(SUGGEST_TIMEOUT_S):
            near = await nearest(hub, id)
    except (ServiceError, TimeoutError):
        near = None
    if near is None:
        return error
    return NoSuchModel(f"{error.message}; did you mean `{near}`?", suggestion=near)


async def nearest(hub: Hub, id: str) -> str | None:
    """Return the most similar id, among the owner's models or else those of a similar name."""
    owner, _, name = id.rpartition("/")
    # The search matches substrings, so half of a misspelt name may match where all of it would not.
    half = {"search": name[: max(len(name) // 2, 3)]}
    for query in [{"author": owner}, half] if owner else [half]:
        ids = {known.lower(): known for known in await hub.search(**query)}
        names = {known.rpartition("/")[2]: known for known in reversed(ids)}
        near = difflib.get_close_matches(id.lower(), ids, 1, MIN_LIKENESS)
        near += [names[n] for n in difflib.get_close_matches(name.lower(), names, 1, MIN_LIKENESS)]
        if near:
            return ids[near[0]]
    return None
