"""All 56 pipeline tags of the Hub: which are served, and why the others are not.

The rows are the Hub's own list (huggingface.js, `packages/tasks/src/pipelines.ts`) without its
`other`. `python -m models.tags` prints docs/reference/tasks.md.
"""

from dataclasses import dataclass

from models import forms, gguf
from models.tables import architectures
from models.tasks import Task, rows_of
from models.tasks.llama import LIBRARY, RANKS, VECTORS
from models.tasks.sentences import SETFIT


@dataclass(frozen=True)
class Refusal:
    """The reason why a tag is not served, and the alternative."""

    reason: str
    help: str


GROUPS = {
    "text": (
        *("text-classification", "token-classification", "table-question-answering"),
        *("question-answering", "zero-shot-classification", "translation", "summarization"),
        *("feature-extraction", "text-generation", "fill-mask", "sentence-similarity"),
        *("text-ranking", "text-retrieval", "table-to-text", "multiple-choice"),
    ),
    "audio": (
        *("text-to-speech", "text-to-audio", "automatic-speech-recognition", "audio-to-audio"),
        *("audio-classification", "voice-activity-detection"),
    ),
    "images and video": (
        *("depth-estimation", "image-classification", "object-detection", "image-segmentation"),
        *("text-to-image", "image-to-text", "image-to-image", "image-to-video"),
        *("unconditional-image-generation", "video-classification", "text-to-video"),
        *("zero-shot-image-classification", "mask-generation", "zero-shot-object-detection"),
        *("text-to-3d", "image-to-3d", "image-feature-extraction", "keypoint-detection"),
        "video-to-video",
    ),
    "several kinds at once": (
        *("audio-text-to-text", "image-text-to-text", "image-text-to-image"),
        *("image-text-to-video", "visual-question-answering", "document-question-answering"),
        *("video-text-to-text", "visual-document-retrieval", "any-to-any"),
    ),
    "tables and series": (
        *("tabular-classification", "tabular-regression", "tabular-to-text"),
        "time-series-forecasting",
    ),
    "other": ("reinforcement-learning", "robotics", "graph-ml"),
}
TAGS = tuple(tag for tags in GROUPS.values() for tag in tags)

REFUSED = {
    "audio-to-audio": Refusal(
        "each model comes with its own library (speechbrain, asteroid, espnet), mostly with "
        "pickled weights",
        "run the model's library in a container written for it",
    ),
    "voice-activity-detection": Refusal(
        "the models are for pyannote.audio and their weights are pickled",
        "an audio-classification model that tells speech from silence",
    ),
    "table-to-text": Refusal(
        "the tag has no library and no agreed form of input",
        "a text-generation model, with the table written out in the text",
    ),
    "tabular-to-text": Refusal(
        "the tag has no library and no agreed form of input",
        "a text-generation model, with the rows written out in the text",
    ),
    "tabular-classification": Refusal(
        "the models are pickled scikit-learn or skops objects, and loading those runs code",
        "export the model to safetensors, or run it where its owner is trusted",
    ),
    "tabular-regression": Refusal(
        "the models are pickled scikit-learn or skops objects, and loading those runs code",
        "export the model to safetensors, or run it where its owner is trusted",
    ),
    "reinforcement-learning": Refusal(
        "a policy answers an environment step by step, and a job has none",
        "run the policy beside its environment, with the library that it was trained in",
    ),
    "robotics": Refusal(
        "a policy answers a robot step by step, and a job has none",
        "run the policy with lerobot beside the robot or its simulator",
    ),
    "graph-ml": Refusal(
        "no library loads these models without their author's code",
        "a model whose architecture is part of transformers",
    ),
}

# Tags that the Hub has removed but many cards still use; each has its own row.
FORMER = ("text2text-generation",)
# Tags that the Hub has renamed, with their present name.
RENAMED = {"conversational": "text-generation"}
# Alternative tags for a model whose architecture its card's tag does not serve (T5 as text
# generation).
OTHERWISE = {"text-generation": ("text2text-generation", "image-text-to-text")}
# Tags that can be inferred from a model's class alone, the more specific first.
INFERRED = (
    *("automatic-speech-recognition", "image-text-to-text", "text2text-generation"),
    *("text-generation", "text-classification", "token-classification", "question-answering"),
    *("multiple-choice", "fill-mask", "image-classification", "object-detection"),
    *("image-segmentation", "depth-estimation", "audio-classification", "feature-extraction"),
)
# Every tag that a card may have: the Hub's own, and former ones that are still served.
SERVABLE = (*TAGS, *FORMER)


def refusal_of(tag: str) -> Refusal | None:
    """Return why a tag of the Hub is refused; None if it is served, or not a tag of the Hub."""
    if tag not in TAGS or rows_of(tag):
        return None
    return REFUSED[tag]


def page() -> str:
    """Render docs/reference/tasks.md."""
    served = sum(bool(rows_of(tag)) for tag in TAGS)
    lines = [
        "# Tasks",
        "",
        f"The Hugging Face Hub has {len(TAGS)} pipeline tags. Modules are made for {served};",
        "the others are refused with the reason given here.",
        "",
        "This page is made from the tables of `libs/models` by",
        "`python -m models.tags > docs/reference/tasks.md`. `models` says which models are served:",
        "a library's classes by name, each compared with the library itself by a test, or the",
        "number of architectures that the library loads for the task. Its `architectures.json`",
        "lists them, with those left out because they need another package.",
    ]
    for group, tags in GROUPS.items():
        lines += [
            "",
            f"## {group.capitalize()}",
            "",
            "| tag | served by | models | input | answer |",
        ]
        lines.append("|---|---|---|---|---|")
        lines += [line for tag in tags for line in _lines(tag)]
    lines += [
        "",
        "## Former tags",
        "",
        "The Hub has dropped these; many cards still have them.",
        "",
    ]
    lines += ["| tag | served by | models | input | answer |", "|---|---|---|---|---|"]
    lines += [line for tag in FORMER for line in _lines(tag)]
    lines += [f"| `{old}` | as `{new}` | | | |" for old, new in RENAMED.items()]
    lines += ["", *forms.section()]
    lines += ["", "## Refused", "", "| tag | reason | what would help |", "|---|---|---|"]
    for tag in TAGS:
        if refusal := refusal_of(tag):
            lines.append(f"| `{tag}` | {refusal.reason} | {refusal.help} |")
    return "\n".join(lines) + "\n"


def _lines(tag: str) -> list[str]:
    rows = rows_of(tag)
    if not rows:
        return [f"| `{tag}` | refused | | | |"]
    return [
        f"| `{tag}` | {library}, `{row.family}` | {_models(tag, library, row)} | {row.takes} "
        f"| {row.returns} |"
        for library, row in rows.items()
    ]


def _models(tag: str, library: str, row: Task) -> str:
    """Name a library's own classes, or count its architectures."""
    if library == LIBRARY:
        count = sum(map(gguf.writes, gguf.known()))
        if tag == RANKS:
            return "GGUF files of XLM-RoBERTa and Qwen3"
        if tag in VECTORS:
            count += len(gguf.known() & gguf.ENCODERS)
        return f"{count} architectures of GGUF files"
    if library in ("diffusers", "sentence-transformers", SETFIT):
        return ", ".join(f"`{name}`" for name in row.classes)
    if row.named_classes:
        return ", ".join(f"`{name}`" for name in row.classes)
    count = len(architectures()["timm" if library == "timm" else tag])
    return f"{count} architectures" if count > 1 else f"`{architectures()[tag][0]}`"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  (the page is this command's output)
