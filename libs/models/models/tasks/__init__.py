"""The tasks that modules are made for: one row per pipeline tag of the Hub and library.

To add a task to a family, add a row to the file of its library. To add a family, add its file of
inference code to the generator's templates and a row here that names it. The tests run every row.
"""

from models.tasks.diffusion import DIFFUSION
from models.tasks.llama import LLAMA
from models.tasks.media import MEDIA
from models.tasks.multimodal import MULTIMODAL
from models.tasks.row import INPUTS, Input, Kind, Parameter, Returns, Task
from models.tasks.sentences import SENTENCES
from models.tasks.text import TEXT
from models.tasks.timm import TIMM

__all__ = [
    "INPUTS",
    "LIBRARIES",
    "ROWS",
    "Input",
    "Kind",
    "Parameter",
    "Returns",
    "Task",
    "is_measured",
    "row",
    "rows_of",
]

ROWS = (*TEXT, *MEDIA, *MULTIMODAL, *SENTENCES, *DIFFUSION, *TIMM, *LLAMA)
# The rows by library, then by tag.
LIBRARIES: dict[str, dict[str, Task]] = {}
for _row in ROWS:
    LIBRARIES.setdefault(_row.library, {})[_row.tag] = _row


def row(tag: str, library: str) -> Task:
    """Return the row of a tag and library. Raises KeyError if the pair is not served."""
    return LIBRARIES[library][tag]


def rows_of(tag: str) -> dict[str, Task]:
    """Return the rows that serve a tag, by library; empty if it is not served."""
    return {library: rows[tag] for library, rows in LIBRARIES.items() if tag in rows}


def is_measured(tag: str, library: str) -> bool:
    """Return whether the benchmarker measures models of this tag and library."""
    task = LIBRARIES.get(library, {}).get(tag)
    return task is not None and task.measured
