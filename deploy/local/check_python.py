"""Refuses an interpreter that is too old, in a sentence that old interpreters can print."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (the point of this file)
    sys.exit(
        "Python 3.11 or newer is needed; %s is %d.%d. Try: make PYTHON=python3.11"  # noqa: UP031  (old ones too)
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
