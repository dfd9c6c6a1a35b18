"""Answers to a question about a table."""

import json
from typing import Any

from generator.templates.inference.combining import combine
from generator.templates.inference.folders import INPUT_DIR
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.loading import load as load
from generator.templates.inference.strings import check_text


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return {answer, coordinates, cells, aggregator} per question; coordinates: (row, column)."""
    from pandas import DataFrame

    answers = []
    tokenizer = pipeline.tokenizer
    max_tokens = min(tokenizer.model_max_length, manifest["run"].get("maxTokens", 512))
    for value in combine(manifest, inputs, parameters):
        if value["question"] is None:
            raise InvalidInput("question: is missing")
        check_text("question", value["question"])
        table = read_table(value["table"])
        # Rows beyond the model's limit would be dropped silently; a model that restarts positions
        # in each cell would take memory with the square of the tokens.
        try:
            tokens = len(tokenizer(DataFrame(table), value["question"])["input_ids"])
            if tokens > max_tokens:
                raise ValueError(f"{tokens:,} tokens with the question; at most {max_tokens:,}")
            answers.append(pipeline(table=table, query=value["question"], truncation=False))
        except (ValueError, IndexError, RuntimeError) as error:
            raise InvalidInput(f"table: the model cannot read it: {str(error)[:200]}") from None
    return answers


def read_table(value: Any) -> dict[str, list[str]]:
    """Read columns by name: JSON {column: [cell, …]}, CSV with a heading, or a file of either."""
    import csv
    import io

    if isinstance(value, str) and len(value) < 256 and value == value.rpartition("/")[2]:
        path = INPUT_DIR / value
        if "\0" not in value and path.is_file():
            value = path.read_text(encoding="utf-8-sig", errors="replace")
    table: Any = None
    try:
        table = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        if isinstance(value, str):
            rows = [row for row in csv.reader(io.StringIO(value)) if row]
            if len({len(row) for row in rows}) == 1 and len(rows) > 1:
                table = {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}
    if (
        not isinstance(table, dict)
        or not table
        or not all(isinstance(column, list) and column for column in table.values())
        or len({len(column) for column in table.values()}) != 1
    ):
        raise InvalidInput(
            "table: give JSON {column: [cell, …]} with columns of one length, or CSV with a heading"
        )
    if len(table) * len(next(iter(table.values()))) > 10_000:
        raise InvalidInput("table: more than 10,000 cells")
    for column in table:
        check_text("table", column, "each heading must be a non-empty string")
    return {name: [str(cell) for cell in column] for name, column in table.items()}
