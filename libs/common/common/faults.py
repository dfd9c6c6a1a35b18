"""Validation errors in our own words: the fault, then the value to send.

Every public model's rules are worded here or beside the rule (`Hint`); the
validator's own sentences speak of Python and of regular expressions.
"""

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from common.errors import InvalidRequest
from common.quantities import counted

# Max faults named for one body; naming one blocks the loop for 16 microseconds.
MAX_FAULTS = 100
# Max fields listed for an unknown one that resembles none of them.
MAX_LISTED_FIELDS = 12
# Min letters that two names share, one within the other, to count as near: `url`, `modelUrl`.
MIN_SHARED_LETTERS = 3
# Other services' words for our fields, by their plain spelling.
SYNONYMS = {
    "begin": "from", "end": "to", "since": "from", "start": "from", "until": "to",
    "id": "modelId", "name": "modelId", "username": "email",
}  # fmt: skip
TIME = "write the time as RFC 3339: 2026-01-31T12:00:00Z"

OBJECT = 'must be a JSON object, such as {"name": "value"}'

Location = Sequence[int | str]
Context = dict[str, Any]


@dataclass(frozen=True)
class Hint:
    """Annotation of a type: one sentence that replaces all messages about its values."""

    sentence: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), "hint", custom_error_message=self.sentence
        )


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def _got(context: Context) -> str:
    """Return the actual length; "more" for an object, where the validator stops counting."""
    length = context.get("actual_length")
    return "more" if length is None else str(length)


WORDS: dict[str, Callable[[Context], str]] = {
    "missing": lambda _: "required and missing",
    "string_type": lambda _: "must be a string, in double quotes",
    "string_unicode": lambda _: "must be a string of UTF-8",
    "string_too_short": lambda c: f"must have at least {counted(c['min_length'], 'character')}",
    "string_too_long": lambda c: f"must have at most {counted(c['max_length'], 'character')}",
    "int_type": lambda _: "must be an integer, without quotes, such as 4",
    "int_from_float": lambda _: "must be an integer, without a fraction, such as 4",
    "int_parsing": lambda _: "must be an integer, such as 4",
    "int_parsing_size": lambda _: "must be an integer of at most 64 bits",
    "float_type": lambda _: "must be a number, without quotes, such as 0.5",
    "float_parsing": lambda _: "must be a number, such as 0.5",
    "finite_number": lambda _: "must be a finite number, such as 0.5",
    "bool_type": lambda _: "must be true or false, without quotes",
    "bool_parsing": lambda _: "must be true or false",
    "greater_than": lambda c: f"must be greater than {_number(c['gt'])}",
    "greater_than_equal": lambda c: f"must be at least {_number(c['ge'])}",
    "less_than": lambda c: f"must be less than {_number(c['lt'])}",
    "less_than_equal": lambda c: f"must be at most {_number(c['le'])}",
    "literal_error": lambda c: f"must be {c['expected'].replace(chr(39), chr(34))}",
    "list_type": lambda _: "must be a list, in square brackets",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), lambda _: OBJECT),
    "too_short": lambda c: f"must have at least {_entries(c['min_length'])}, got {_got(c)}",
    "too_long": lambda c: f"must have at most {_entries(c['max_length'])}, got {_got(c)}",
    "timezone_aware": lambda _: (
        "the time has no zone: end it with Z for UTC, or an offset like +02:00"
    ),
    "value_error": lambda c: str(c["error"]),
    "hint": lambda _: "",
    "json_invalid": lambda _: "must be JSON in UTF-8, without a byte-order mark",
    **{
        f"datetime_{fault}": lambda _: TIME
        for fault in ("type", "parsing", "from_date_parsing", "object_invalid")
    },
}


def invalid(error: ValidationError, model: type[BaseModel] | None = None) -> InvalidRequest:
    """Return a validation error without the submitted values, which may be secret.

    Args:
        error: its faults are named; of more than `MAX_FAULTS` only the number.
        model: what was read, to name the nearest field and to give examples.
    """
    count = error.error_count()
    if count > MAX_FAULTS:
        return InvalidRequest(
            f"{count} values or keys are wrong, too many to name; correct them all", fields=[]
        )
    faults = error.errors(include_url=False, include_input=False)
    fields = [{"path": _path(fault["loc"]), "message": _word(fault, model)} for fault in faults]
    # Unknown fields first: one is often the misspelling of a missing field.
    kinds = [fault["type"] for fault in faults]
    first = fields[kinds.index("extra_forbidden") if "extra_forbidden" in kinds else 0]
    where = f"{first['path']}: " if first["path"] else "the request " * (first["message"] == OBJECT)
    return InvalidRequest(f"{where}{first['message']}", fields=fields)


def unknown_before() -> InvalidRequest:
    """Return the error for a `before` that names no entry of the list."""
    fault = "names no entry of this list; send the `next` of the last page, or leave it out"
    return InvalidRequest(f"before: {fault}", fields=[{"path": "before", "message": fault}])


def _path(location: Location) -> str:
    # Truncated, since a part may be a caller's key of any length. The validator marks a fault in a
    # key itself by the extra part `[key]`.
    return ".".join(str(part)[:64] for part in location if part != "[key]")


def _word(fault: Any, model: type[BaseModel] | None) -> str:
    kind, location = fault["type"], fault["loc"]
    owner, field = _find(model, location)
    if kind == "extra_forbidden":
        return _unknown(str(location[-1]), owner)
    if kind == "hint":
        return str(fault["msg"])
    words = WORDS.get(kind)
    if words is None:
        return "is not a value that can be read here; /docs shows what can"
    sentence = words(fault.get("ctx", {}))
    if kind in {"value_error", "timezone_aware"} or field is None or not field.examples:
        return sentence
    if location[-1] not in (field.alias, field.validation_alias):  # the example is the whole object
        return sentence
    return f"{sentence}; for example {json.dumps(field.examples[0])}"


def _unknown(name: str, owner: type[BaseModel] | None) -> str:
    if owner is None:
        return "unknown field"
    known = {_plain(public): public for public in public_names(owner)}
    plain = _plain(name[:64])
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6) or [
        *([_plain(SYNONYMS[plain])] if plain in SYNONYMS else []),
        *(
            candidate
            for candidate in known
            if len(plain) >= MIN_SHARED_LETTERS and plain in candidate
        ),
    ]
    if near and near[0] in known:
        return f"unknown field; did you mean `{known[near[0]]}`?"
    listed = ", ".join(f"`{public}`" for public in list(known.values())[:MAX_LISTED_FIELDS])
    return f"unknown field; the fields are {listed}" if listed else "unknown field; none is allowed"


def public_names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a model's fields by the names that callers write."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _find(
    model: type[BaseModel] | None, location: Location
) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """Return the model that holds the last part of a location, and its field."""
    owner, field, is_key = model, None, False
    for index, part in enumerate(location):
        if isinstance(part, int) or owner is None or is_key:
            is_key = False
            continue
        field = public_names(owner).get(part)
        if field is None or index == len(location) - 1:
            break
        owner, is_key = _model_in(field.annotation), _is_mapping(field.annotation)
    return owner, field


def _is_mapping(annotation: Any) -> bool:
    """Return whether an annotation is or contains a dict, whose keys the caller chooses."""
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (model := _model_in(part)) is not None:
            return model
    return None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) >= 1e15 or value != int(value) else str(int(value))
