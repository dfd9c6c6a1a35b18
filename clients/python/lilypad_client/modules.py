"""A generated module: its files, and what is known of them."""

from pathlib import Path
from typing import Any


class Module(dict[str, str]):
    """File names and their texts.

    `validation` holds `status`, `errors` and `checks`; `model` what the files
    were made for: id, commit, task, licence, parameters, memory.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data["files"])
        self.validation: dict[str, Any] = data["validation"]
        self.model: dict[str, Any] = data["model"]

    def write_to(self, folder: str | Path) -> Path:
        """Write the files into a folder, which is made when it is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.items():
            if Path(name).name != name:
                raise ValueError(f"refusing to write outside the folder: {name!r}")
            (folder / name).write_text(text, encoding="utf-8")
        return folder
