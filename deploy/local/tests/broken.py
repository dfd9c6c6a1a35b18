"""A service that ends as soon as it is started, with a reason."""

import sys

sys.exit("the reason why")
