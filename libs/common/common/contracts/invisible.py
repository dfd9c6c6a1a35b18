"""Invisible characters, with which a name can look like another name, or like no name.

Classes of characters are the insides of brackets of a regular expression.
"""

import re

# Default_Ignorable_Code_Point of Unicode 17, from its DerivedCoreProperties.txt: fillers, joiners,
# marks of direction, variation selectors and tags.
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
# Other controls and separators; annotations; the blank pattern of Braille, and a blank note.
_BLANK = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u2800\ufff9-\ufffb\U0001d159"
INVISIBLE = _IGNORABLE + _BLANK
# Spaces that look like the usual one.
SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"

_VISIBLE = re.compile(rf"[^{INVISIBLE}\s]")


def check_not_blank(name: str) -> str:
    """Return the name; raise ValueError if it has no visible character."""
    if _VISIBLE.search(name) is None:
        raise ValueError("must hold at least one visible character")
    return name
