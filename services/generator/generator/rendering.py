"""The module's files, made from its manifest and from constant templates.

Nothing that a caller or a model's owner wrote becomes code: values reach a file
only as JSON or YAML, or as one of this program's own constants.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from generator import requirements
from generator.libraries import row
from generator.manifest import Manifest
from generator.tasks import FAMILIES, Task

TEMPLATES = files("generator") / "templates"
# What a README shows, for a shell: the input by its kind, and what a task cannot do without.
EXAMPLES = {
    "text": '"Hello, world"',
    "question": '"Who sits on the pad?"',
    "image": "image.png",
    "audio": "sound.wav",
    "video": "clip.png",
    "table": "table.csv",
    "series": '"[1, 2, 3, 5]"',
    "number": "7",
}
# The network's command line has no files of its own to name.
ON_THE_NETWORK = {
    "image": '"$(base64 -w0 image.png)"',
    "audio": '"$(base64 -w0 sound.wav)"',
    "video": '"$(base64 -w0 clip.png)"',
    "table": '"$(cat table.csv)"',
}
NEEDED = {
    "image": "`image.png`, a picture",
    "audio": "`sound.wav`, a sound",
    "video": "`clip.png`, an animated picture",
    "table": "`table.csv`, a table with a heading",
}
ALSO = {
    "question-answering": {"context": '"The frog sits on the pad."'},
    "multiple-choice": {"choices": "$'It swims.\\nIt flies.'"},
    "text-ranking": {"query": '"What is said?"'},
    "sentence-similarity": {"query": '"Good day"'},
    "text-retrieval": {"query": '"What is said?"'},
    "visual-question-answering": {"question": '"What is it?"'},
    "document-question-answering": {
        "question": '"What is it?"',
        "words": """'[["frog", [0, 0, 500, 100]]]'""",
    },
    "table-question-answering": {"question": '"How old is the frog?"'},
    "visual-document-retrieval": {"query": '"What is it?"'},
    "image-text-to-text": {"text": '"What is it?"'},
    "video-text-to-text": {"text": '"What is it?"'},
    "audio-text-to-text": {"text": '"What is it?"'},
}
SHARED = "# --- what all families share ---"
FAMILY = "# --- the model's family"


def render(module: Manifest) -> dict[str, str]:
    """The six files by name."""
    task = row(module.model.task, module.model.library)
    return {
        "Dockerfile": _fill(
            "Dockerfile.j2",
            base=module.run.base_image,
            gpu=module.resources.gpu,
            unused=unused(module.run.family),
        ),
        "README.md": _fill(
            "README.md.j2",
            module=module,
            image=image(module),
            examples=examples(task),
            sent=ON_THE_NETWORK,
            needed=NEEDED.get(task.takes),
            answers=task.answers,
        ),
        "lilypad_module.json.tmpl": _fill(
            "lilypad_module.json.tmpl.j2",
            module=module,
            image=image(module),
            size=_short(module.model.parameters),
        ),
        "module.yaml": module.to_yaml(),
        "requirements.txt": requirements.of(module.run.family),
        "run_inference.py": script(module.run.family),
    }


def examples(task: Task) -> list[tuple[str, str]]:
    """Inputs by name that a module of the task answers, as a shell is given them."""
    # Modules read this mask, whatever their own is called.
    text = '"Hello, [MASK]"' if task.name == "fill-mask" else EXAMPLES[task.takes]
    return [(task.takes, text), *ALSO.get(task.name, {}).items()]


def image(module: Manifest) -> str:
    """A name to begin with; who publishes the module puts the pushed digest in its place."""
    return f"docker.io/your-name/{module.name}:{module.model.commit[:12]}"


def unused(family: str) -> list[str]:
    """What the images with CUDA bring beside torch, and this family has no use for."""
    return [name for name in ("torchvision", "torchaudio") if name not in FAMILIES[family].needs]


@cache
def script(family: str) -> str:
    """run_inference.py: the shared source with one family's functions in their place."""
    folder = TEMPLATES / "inference"
    shared = (folder / "module.py").read_text(encoding="utf-8")
    sources = [
        (folder / f"{source}.py").read_text(encoding="utf-8") for source in FAMILIES[family].sources
    ]
    head, _, rest = shared.partition(FAMILY)
    # Their imports are for checking them here; in the module all stand in one file.
    functions = "\n\n\n".join(own[own.index("\ndef ") :].strip("\n") for own in sources)
    heading = f"# --- this model's family: {family} ---"
    return f"{head}{heading}\n\n\n{functions}\n\n\n{SHARED}{rest.partition(SHARED)[2]}"


def as_json(value: Any) -> str:
    """JSON on one line that the network's templates take for text, braces and all."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("{{", "\\u007b\\u007b").replace("}}", "\\u007d\\u007d")


def _load(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # Square brackets: the network's own templates have the braces. Escaping for HTML would be
    # wrong in every one of these files; values are typed or pass through as_json.
    environment = Environment(  # noqa: S701
        loader=FunctionLoader(_load),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    environment.filters["json"] = as_json
    return environment


def _fill(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(values)


def _short(count: int) -> str:
    """1234567 as 1.2M, the way model sizes are written."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
