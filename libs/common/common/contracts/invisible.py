"""Invisible characters, which make a name look like another name, or like no name.

A name that a person gives is a `Name`. Names of models come from programs, which recorded them
before this rule: they are held only to `check_no_controls` and `check_not_blank`.

Classes of characters are the insides of brackets of a regular expression.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from common.faults import Hint

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
# Controls, line separators, and marks that reverse the direction of the text around them: a text
# with one could look like another, or reverse the sentence that contains it.
CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"

# Scripts in which joiners are spelling: Arabic, those of India and South East Asia, Mongolian.
_JOINING = "[\u0600-\u109f\u1780-\u18af\ua800-\uabff\U00010a00-\U00011fff]"
SPELLING_JOINER = f"(?<={_JOINING})[\u200c\u200d](?={_JOINING})"
_EMOJI = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001faff][\ufe0e\ufe0f]?"
)
# Sequences that are drawn as one: emoji, keycaps, the flags of England, Scotland and Wales, and
# variants of an ideograph.
_SEQUENCES = (
    f"{_EMOJI}(?:\u200d{_EMOJI})*",
    "[0-9#*]\ufe0f\u20e3",
    (
        "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067"
        "|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
    ),
    "[\u3400-\u9fff\U00020000-\U0003ffff][\U000e0100-\U000e01ef]",
)
# Matches what belongs to the text around it, or else an invisible character, as its group.
PROSE = re.compile(f"{'|'.join((_SEQUENCES[2], *_SEQUENCES))}|{SPELLING_JOINER}|([{INVISIBLE}])")

_CONTROL = re.compile(f"[{CONTROLS}]")
_VISIBLE = re.compile(rf"[^{INVISIBLE}\s]")


def check_not_blank(name: str) -> str:
    """Return the name; raise ValueError if it has no visible character."""
    if _VISIBLE.search(name) is None:
        raise ValueError("must hold at least one visible character")
    return name


def check_no_controls(name: str) -> str:
    """Return the name; raise ValueError if it holds a control or a mark of text direction."""
    if _CONTROL.search(name):
        raise ValueError(
            "must hold no control characters, line separators and marks of text direction"
        )
    return name


def check_visible(name: str) -> str:
    """Return the name; raise ValueError if it holds an invisible character, or nothing else.

    Joiners that are spelling, and those of emoji, are allowed.
    """
    check_not_blank(name)
    for match in PROSE.finditer(name):
        if match[1]:
            raise ValueError(
                f"must hold no invisible characters, got U+{ord(match[1]):04X}; leave it out"
            )
    return name


# The name of something that a person makes, such as a key.
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$"
    ),
    Hint('must be 1 to 100 characters without control characters, such as "laptop"'),
    AfterValidator(check_visible),
]
