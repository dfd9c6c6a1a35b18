"""Resident mapped files, which a fork does not inherit with its parent's memory.

A model's memory includes the libraries that it runs in. Without this, a forked process would
account for the pages of their files only as it touches them.
"""

import ctypes
import mmap
import re
from array import array
from pathlib import Path

MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ [1-9]")
# Bit of a page's entry in /proc/self/pagemap which says that it is resident.
RESIDENT = 1 << 63
ENTRY_BYTES = 8


def files() -> list[int]:
    """Return the addresses of the resident pages of mapped files; an empty list if unknown."""
    resident: list[int] = []
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
            for line in Path("/proc/self/maps").read_text().splitlines():
                if mapping := MAPPING.match(line):
                    start, end = (int(address, 16) for address in mapping.groups())
                    pages.seek(start // mmap.PAGESIZE * ENTRY_BYTES)
                    entries = pages.read((end - start) // mmap.PAGESIZE * ENTRY_BYTES)
                    addresses = range(start, end, mmap.PAGESIZE)
                    resident += [
                        address
                        for address, entry in zip(addresses, array("Q", entries), strict=False)
                        if entry & RESIDENT
                    ]
    except OSError:
        return []
    return resident


def enter(addresses: list[int]) -> None:
    """Touch pages, so that they become resident in this process."""
    for address in addresses:
        ctypes.c_char.from_address(address).value  # noqa: B018  (reading is the effect)
