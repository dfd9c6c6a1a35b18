"""The schema of a task's row: its inputs, its answer, and how its models are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["text", "question", "image", "audio", "video", "table", "series", "number"]
# Types of the fields of an answer. Media are files as base64.
Type = Literal[
    "string", "number", "integer", "numbers", "vector", "vectors", "box", "list",
    "image", "mask", "audio", "video", "shape",
]  # fmt: skip
# A value of each type, to show an answer's form; files begin as real ones do.
SAMPLES: dict[Type, Any] = {
    "string": "…",
    "number": 0.98,
    "integer": 3,
    "numbers": [0.7, 0.3],
    "vector": [0.012, -0.034],
    "vectors": [[0.012, -0.034]],
    "box": {"xmin": 10, "ymin": 20, "xmax": 110, "ymax": 220},
    "list": [],
    "image": "iVBORw0KGgo…",
    "mask": "iVBORw0KGgo…",
    "audio": "UklGRg…",
    "video": "iVBORw0KGgo…",
    "shape": "cGx5…",
}
# How the file of an encoded field ends.
ENDINGS: dict[Type, str] = {
    **dict.fromkeys(("image", "mask", "video"), "png"),
    "audio": "wav",
    "shape": "ply",
}
ENCODINGS: dict[Type, str] = {
    "image": "a PNG as base64",
    "mask": "a PNG as base64",
    "audio": "a WAV file as base64",
    "video": "an animated PNG as base64",
    "shape": "a PLY file as base64",
    "box": "{xmin, ymin, xmax, ymax} in pixels",
}


@dataclass(frozen=True)
class Parameter:
    """A scalar input. A `default` of None means the library's or the model's own."""

    name: str
    type: Literal["string", "integer", "number", "boolean"]
    description: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Input:
    """A kind of input: its parameter, an example value, and the example file it needs, if any."""

    parameter: Parameter
    example: str
    file: str | None = None


INPUTS: dict[Kind, Input] = {
    "text": Input(Parameter("text", "string", "The text."), "Hello, world"),
    "question": Input(Parameter("question", "string", "The question."), "Who sits on the pad?"),
    "image": Input(
        Parameter("image", "string", "The image, as base64, or a file's name in /inputs."),
        "image.png",
        "a picture",
    ),
    "audio": Input(
        Parameter(
            "audio",
            "string",
            "The sound: WAV, FLAC, OGG or MP3 as base64, or a file's name in /inputs.",
        ),
        "sound.wav",
        "a sound",
    ),
    "video": Input(
        Parameter(
            "video",
            "string",
            "The video: an animated PNG, GIF or WebP as base64, or a file's name in /inputs.",
        ),
        "clip.png",
        "an animated picture",
    ),
    "table": Input(
        Parameter(
            "table",
            "string",
            "The table: JSON {column: [cell, ...]} or CSV, or a CSV file's name in /inputs.",
        ),
        "table.csv",
        "a table with a header row",
    ),
    "series": Input(
        Parameter("series", "string", "The series: a list of numbers as JSON."), "[1, 2, 3, 5]"
    ),
    "number": Input(Parameter("number", "integer", "Seed of this answer."), "7"),
}


@dataclass(frozen=True)
class Returns:
    """The answer to one input.

    `fields` of an object by name, or `bare` if the answer is not an object. `many`: a list of them;
    `ranked`: best first. `note` is a sentence about the whole answer. `states`: a bare answer is a
    list of one list of vectors, not one vector. `aliases`: names that fields have under some
    parameters, by their usual names.
    """

    fields: Mapping[str, Type] = field(default_factory=dict)
    many: bool = False
    ranked: bool = False
    bare: str = ""
    note: str = ""
    states: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def has(self, type: Type) -> bool:
        return type in self.fields.values()

    @property
    def sample(self) -> Any:
        """An example answer."""
        if self.bare:
            item: Any = [SAMPLES["vectors"]] if self.states else SAMPLES["vector"]
        else:
            item = {name: SAMPLES[kind] for name, kind in self.fields.items()}
        return [item] if self.many else item

    @property
    def encoded(self) -> tuple[str, Type] | None:
        """The first field that holds a file, and its type."""
        return next(((name, kind) for name, kind in self.fields.items() if kind in ENDINGS), None)

    def __str__(self) -> str:
        names = [
            f"{self.aliases[name]} or {name}" if name in self.aliases else name
            for name in self.fields
        ]
        item = self.bare or "{" + ", ".join(names) + "}"
        if self.many:
            item = f"a list of {item}" + (", best first" if self.ranked else "")
        files = [f"`{name}` is {ENCODINGS[t]}" for name, t in self.fields.items() if t in ENCODINGS]
        sentences = [f"For each input {item}", *files, *([self.note] if self.note else [])]
        return ". ".join(part.rstrip(".") for part in sentences) + "."


@dataclass(frozen=True)
class Task:
    """A pipeline tag of the Hub as one library serves it.

    Attributes:
        tag: the Hub's pipeline tag.
        library: the Hub's name of the library that loads its models.
        family: the inference code that serves it (`families`).
        takes: the kind of one input.
        returns: what comes back for it.
        classes: name endings of the architectures that serve it; empty: any architecture
            that the library loads.
        auto_classes: the library's classes that load its models, the first that knows one wins.
        processor: the class of transformers that prepares its inputs, where no pipeline does.
        head: the tag whose models have the same head.
        batch_size: inputs at once where the caller names no number.
        parameters: scalar inputs beside the input itself.
        example: values of the parameters that a caller cannot leave out, or of the input itself.
        optional: those of `example` that may be left out.
        generates: whether tokens are written one after another.
        texts: whether its input or output includes a text besides `takes`.
        transcribes: whether a model with a decoder generates text with it.
        every_logit: whether the logits of all tokens are computed, not only the last one's.
        reads_pictures: whether the image, not the text beside it, limits the input's length.
        stack: the stack of packages, if not the family's.
        measured: whether the benchmarker measures its models.
    """

    tag: str
    library: str
    family: str
    takes: Kind
    returns: Returns
    classes: tuple[str, ...] = ()
    auto_classes: tuple[str, ...] = ()
    processor: str | None = None
    head: str | None = None
    batch_size: int = 8
    parameters: tuple[Parameter, ...] = ()
    example: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    generates: bool = False
    texts: bool = False
    transcribes: bool = False
    every_logit: bool = False
    reads_pictures: bool = False
    measured: bool = False
    stack: str = ""

    @property
    def tokenizes(self) -> bool:
        """Whether the model has a tokenizer that the task needs."""
        return self.texts or self.takes in ("text", "question", "table")

    @property
    def named_classes(self) -> bool:
        """Whether `classes` are complete class names rather than suffixes."""
        return bool(self.classes) and not any(name.startswith("For") for name in self.classes)

    @property
    def head_tag(self) -> str:
        """The tag under which the tables list this task's heads and architectures."""
        return self.head or self.tag

    @property
    def inputs(self) -> tuple[Parameter, ...]:
        """The scalar inputs: the input itself, the parameters, the seed."""
        seed = Parameter("seed", "integer", "Seed of all random numbers.", 0, 0, 2**32 - 1)
        return INPUTS[self.takes].parameter, *self.parameters, seed

    @property
    def required(self) -> frozenset[str]:
        """The inputs that a request must have."""
        return frozenset((self.takes, *self.example)) - {*self.optional}

    @property
    def examples(self) -> dict[str, str]:
        """Example inputs by name."""
        return {self.takes: INPUTS[self.takes].example, **self.example}


# Note on models that judge a text as a whole, about texts beyond their limit.
CUT = "A text longer than the model's limit is truncated."
TEMPERATURE = Parameter(
    "temperature",
    "number",
    "0: always the likeliest token; above 0: sampled, the higher the more varied; omitted: the "
    "model's own setting.",
    None,
    0,
    5,
)
CHOSEN = (
    "Without `temperature`, the model's generation_config.json decides whether tokens are sampled; "
    "with the same `seed` the answer is the same."
)
QUERY = Parameter("query", "string", "The text to compare the inputs with.")
ASKED = {"query": "What is said?"}
RANK = Returns({"score": "number"}, note="`score`: how well it answers `query`. " + CUT)
NEW_TOKENS = Parameter("max_new_tokens", "integer", "Maximum number of new tokens.", 128, 1, 32_768)
TOP_K = Parameter("top_k", "integer", "Number of labels to return, best first.", None, 1, 1000)
RANKED_LABELS = Returns({"label": "string", "score": "number"}, many=True, ranked=True)
FOUND_BOXES = Returns({"label": "string", "score": "number", "box": "box"}, many=True)
