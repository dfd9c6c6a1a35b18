"""Classifiers that judge how two texts relate to each other."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.tasks.row import Task

# Beginnings of labels that describe the relation of one text to another.
RELATIONS = (
    *("entail", "contradict", "not_entail", "equivalent", "not_equivalent", "duplicate"),
    *("not_duplicate", "paraphrase", "not_paraphrase"),
)
# Data sets of pairs, as `finetuning_task` names them, also with their collection before a colon or
# a slash, or in a list: their classifiers often have labels without a name.
PAIRS = frozenset(
    ("mrpc", "qqp", "sts-b", "stsb", "mnli", "mnli-mm", "snli", "qnli", "rte", "wnli", "paws")
)
# A label without a name, in lower case.
UNNAMED = re.compile(r"(?:label_)?\d+")
PAIR = {"text_pair": "Good day, everyone"}


def compares(config: Mapping[str, Any]) -> bool:
    """Whether a classifier's config says that it compares two texts.

    A model that was trained further keeps its base's `finetuning_task`, so that names of labels
    take precedence; the one score of a regression has no name that says more.
    """
    named = config.get("finetuning_task")
    data_sets = {
        re.split("[:/]", str(one).lower())[-1].replace("_", "-")
        for one in (named if isinstance(named, list) else [named])
    }
    labels = [str(label).lower() for label in config.get("labels") or ()]
    if any(label.startswith(RELATIONS) for label in labels):
        return True
    if not data_sets or not data_sets <= PAIRS:
        return False
    return len(labels) == 1 or all(map(UNNAMED.fullmatch, labels))


def of_pairs(task: Task) -> Task:
    """Return the row of a classifier, with a second text required."""
    return replace(task, example={**task.example, **PAIR})
