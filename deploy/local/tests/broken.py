"""A service that logs a reason and exits right after its start."""

import sys

sys.exit("the reason why")
