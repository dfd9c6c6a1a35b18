"""The account that PostgreSQL runs as, and a check of its access to files.

Runs before anything is installed, so with the standard library alone.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from local.process import tied

# PostgreSQL refuses to run as root; this account exists on every system.
UNPRIVILEGED = "nobody"
PROBE = """
import os, sys
print(*[path for path in sys.argv[1:] if not os.access(path, os.R_OK | os.X_OK)], sep="\\n")
"""


def account() -> str | None:
    """Return the account to run PostgreSQL as; None means the current account."""
    return UNPRIVILEGED if os.geteuid() == 0 else None


def obstacle(paths: Iterable[Path]) -> str:
    """Return why PostgreSQL's account cannot use these paths, and what to do; "" if it can."""
    name = account()
    if name is None:
        return ""
    interpreter = [sys.executable, "-I", "-S", "-c", PROBE]
    probe = tied([*interpreter, *(str(path.resolve()) for path in paths)], name)
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    advice = (
        "run this as an ordinary user, or from a directory that every user may enter, such as /srv"
    )
    if done.returncode:
        return (
            f"PostgreSQL refuses to run as root, and this process may not become `{name}`; {advice}"
        )
    closed = done.stdout.strip().splitlines()
    if closed:
        return (
            f"PostgreSQL refuses to run as root, and `{name}` may not enter {closed[0]}"
            f" (the container lacks CAP_DAC_OVERRIDE or CAP_SETPCAP); {advice}"
        )
    return ""
