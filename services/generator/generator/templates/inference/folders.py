"""Folders in which the network puts a caller's files."""

import os
from pathlib import Path

INPUT_DIR = Path(os.environ.get("INPUT_DIR") or "/inputs")
