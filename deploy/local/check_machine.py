"""Pre-flight check for machines on which the set-up would fail.

The messages are printed in syntax that old interpreters understand.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (the point of this file)
    sys.exit(
        "Python 3.11 or newer is needed; %s is %d.%d. Try: make PYTHON=python3.11"  # noqa: UP031  (old ones too)
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )

from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(DEPLOY))

from local.account import obstacle  # noqa: E402  (old interpreters do not get here)

why = obstacle([DEPLOY.parent])
if why:
    sys.exit(f"This cannot work here: {why}")
