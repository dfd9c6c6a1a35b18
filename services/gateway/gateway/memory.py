"""Bounded dictionaries, for entries whose number callers decide."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(memory: dict[Key, Value], key: Key, value: Value, maxsize: int) -> None:
    """Insert as newest; evict the oldest beyond `maxsize`."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > maxsize:
        del memory[next(iter(memory))]
