"""The row type of the Hub's catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Model:
    """A repository of the Hub: id, maker and properties.

    `maker` names a function as `module:function` and is looked up only where models are made, so
    that the server starts without torch. `branches` maps a branch to its maker's options; each
    branch has its own weights. `card` has the card's metadata over the usual; None leaves a field
    out. `about` is the card's text.
    """

    id: str
    maker: str
    task: str | None
    library: str | None = "transformers"
    card: Mapping[str, Any] = field(default_factory=dict)
    branches: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"main": {}})
    about: str = "A tiny model with random weights."
    former_ids: tuple[str, ...] = ()
    gated: Literal["auto", "manual", False] = False
    private: bool = False
    disabled: bool = False
