"""Dockerfile parser."""

import json
import re
from dataclasses import dataclass

HEREDOC = re.compile(r"<<-?[\"']?\w")


@dataclass(frozen=True)
class Instruction:
    """An instruction. `arguments`: the exec form's list, or the whole rest as one string."""

    name: str
    arguments: tuple[str, ...]
    flags: tuple[str, ...] = ()


def parse(text: str) -> list[Instruction]:
    """Return the instructions in order. Raises ValueError for syntax our template does not use."""
    instructions = []
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        if line.endswith("\\") or HEREDOC.search(line):
            raise ValueError("an instruction spans several lines")
        name, _, rest = line.partition(" ")
        if not re.fullmatch(r"[A-Z]+", name):
            raise ValueError(f"not an instruction: {name[:20]!r}")
        flags = []
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            flags.append(flag)
        arguments = json.loads(rest) if rest.startswith("[") else [rest]
        if not all(isinstance(argument, str) for argument in arguments):
            raise ValueError("an exec form holds something other than strings")
        instructions.append(Instruction(name, tuple(arguments), tuple(flags)))
    return instructions
