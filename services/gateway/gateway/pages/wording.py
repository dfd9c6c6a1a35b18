"""Error messages for pages: with the forms' labels, without API calls and JSON."""

import re

from pydantic import ValidationError

from common.errors import ServiceError
from common.faults import invalid

# Labels of the forms' fields, by their public names.
LABELS = {
    "modelUrl": "Model on the Hugging Face Hub",
    "batchSize": "Inputs at once",
    "memory": "Memory",
    "gpu": "GPU",
    "optimizationLevel": "Optimization",
    "revision": "Revision",
    "modelId": "Model",
    "batchSizes": "Batch sizes",
    "iterations": "Timed calls per size",
    "warmup": "Warm-up calls",
    "inputTokens": "Tokens per input",
    "newTokens": "New tokens",
    "latencyBudgetMs": "Latency at most, ms",
    "pricePerHour": "Price of the machine, USD per hour",
    "device": "Device",
    "dtype": "Dtype",
    "attention": "Attention",
    "compile": "Compile with torch.compile",
    "above": "Above",
    "below": "Below",
    "percent": "Worse by, %",
    "after": "Silent for, s",
    "forMinutes": "Holds for, min",
}
# Errors of an empty field.
EMPTY = re.compile(r"must have at least 1 (character|entry)")
EMPTY_CHOICES = {"scopes": "choose at least one scope"}
# API calls and headers in messages, and what a person does on a page instead.
PHRASES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r" with PUT /v1/api/account/hub-token", " on your account's page"),
        (r"; PUT /v1/api/account/hub-token stores one", "; store one on your account's page"),
        (r"; GET /v1/api/[a-z/]+ lists? [a-z ]+", ""),
        (r"; end it first with DELETE /v1/api/account/totp", "; switch it off first"),
        (r"; start with POST /v1/api/account/totp", "; set it up on your account's page"),
        (
            r"ask for a link .* with POST /v1/api/account/reset, and use it once",
            "log out, choose “Forgot the password?” and use the link that is mailed",
        ),
        (
            r"this Idempotency-Key was used with another request; send a new key",
            "this form was sent before with other values; load the page again",
        ),
        (
            r"the first request with this Idempotency-Key is still under way",
            "the form was sent twice, and the first is still under way",
        ),
        (
            r"^the body is larger than [\d,]+ bytes; send less$",
            "the form is too large; go back, and shorten what you typed",
        ),
        (
            r"^token: must have at \w+ \d+ characters$",
            "the link is incomplete; open the whole address of the mail, or ask for a new link",
        ),
        (r"^token: is\b", "the link is"),
        (r", without quotes\b", ""),
        (r"\ban integer\b", "a whole number"),
        (r"\ba finite number\b", "a number"),
        (r"; send `after`, in seconds", "; fill in `after`"),
        (r'^must be "[^"]+"(, "[^"]+")*( or "[^"]+")?$', "choose one of the list"),
    )
)
# A field's name at the start of a message, and a name in backticks within it.
FIELD = re.compile(r"([a-z][\w.]*):")
NAME = re.compile(r"`(\w+)`")
# The first letter of a word, not of a model's id.
WORD = re.compile(r"^[a-z](?=[a-z'-]*([ ,;.]|$))")
ITEM = re.compile(r"\.(\d+)$")
# A bound, since a model's name may hold digits of its own.
LONG_BOUND = re.compile(r"(?<=must be at most )\d{5,}\b")


def refusal(error: ServiceError | ValidationError | None) -> ServiceError | None:
    return invalid(error) if isinstance(error, ValidationError) else error


def by_field(refusal: ServiceError | None) -> dict[str, str]:
    """Return the error sentences by field; sentences about a list's items are joined."""
    faults: dict[str, str] = {}
    for field in refusal.details.get("fields", []) if refusal else []:
        # A form has no groups of fields.
        name, message = field["path"].removeprefix("options."), field["message"]
        if EMPTY.match(message):
            message = EMPTY_CHOICES.get(name, "fill this in")
        message = sentence(message)
        if item := ITEM.search(name):
            name, message = name[: item.start()], f"Item {int(item[1]) + 1}: {message}"
        faults[name] = f"{faults[name]} {message}" if name in faults else message
    return faults


def sentence(text: str) -> str:
    """Write an error's message as a sentence for a page."""
    for pattern, words in PHRASES:
        text = pattern.sub(words, text)
    text = LONG_BOUND.sub(lambda match: f"{int(match[0]):,}", labelled(text))
    if field := FIELD.match(text):
        name = field[1].removeprefix("options.")
        begin = LABELS.get(name, field[1]) + text[field.end(1) :]
    else:
        begin = WORD.sub(lambda match: match[0].upper(), text)
    return begin + ("" if text.endswith((".", "!", "?")) else ".")


def labelled(text: str) -> str:
    """Replace field names by the labels of the forms' fields."""
    return NAME.sub(lambda match: f"“{LABELS[match[1]]}”" if match[1] in LABELS else match[0], text)
