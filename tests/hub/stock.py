"""The Hub's repositories, made when they are first requested."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from hub.making import make_missing
from hub.model import Model
from hub.repository import Repository, read_repository


class Stock:
    """A cache of repositories by id.

    Attributes:
        models: every model that the Hub claims to have, by id.
        names: the id of a model by each of its names in lower case, former ones included.
    """

    def __init__(self, models: Iterable[Model], models_dir: Path) -> None:
        self.models = {model.id: model for model in models}
        self.names = {
            name.lower(): model.id
            for model in self.models.values()
            for name in (model.id, *model.former_ids)
        }
        self._models_dir = models_dir
        self._repositories: dict[str, Repository] = {}
        self._making = asyncio.Lock()

    def lay_in(self, models: Iterable[Model]) -> None:
        """Make these models now, in one process, since importing torch takes seconds."""
        folders = make_missing(models, self._models_dir)
        for name, folder in folders.items():
            self._repositories[name] = read_repository(self.models[name], folder)

    async def repository(self, name: str) -> Repository:
        """Return a model's repository. Raises KeyError for an unknown id."""
        if name not in self._repositories:
            async with self._making:
                if name not in self._repositories:
                    await asyncio.to_thread(self.lay_in, [self.models[name]])
        return self._repositories[name]
