"""The tasks that modules are made for: one row each.

A row says which family of inference code serves the task, how a model of it is
recognised, and what a caller may send. To add a task, add a row and, where no
family fits, a family under `templates/inference`; the tests run every row.
"""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "question", "image", "audio", "video", "table", "series", "number"]


@dataclass(frozen=True)
class Parameter:
    """One scalar input. `default` None: the library's or the model's own."""

    name: str
    type: Literal["string", "integer", "number", "boolean"]
    description: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Task:
    """`takes` is the kind of one input, `answers` says what comes back for it.

    `classes` are the ends of the architectures' names that serve it; none: any architecture
    that the library knows. `batch_size` is used where the caller names none. `texts`: a text goes
    in or comes out beside what it takes.
    """

    name: str
    family: str
    takes: Kind
    answers: str
    classes: tuple[str, ...] = ()
    batch_size: int = 8
    parameters: tuple[Parameter, ...] = ()
    generates: bool = False
    texts: bool = False

    @property
    def tokenizes(self) -> bool:
        """Whether the model has a tokenizer that the task needs."""
        return self.texts or self.takes in ("text", "question", "table")


@dataclass(frozen=True)
class Family:
    """Inference code that serves several tasks.

    `sources` are files of `templates/inference`; together they define `load` and `answer`.
    `libraries` are the Hub's names of the libraries whose models it loads. `needs` are the packages
    that its code asks for; with all that those ask for, at exact versions, they stand in
    `templates/requirements` (`make pins`). `batches`: several inputs go through the model at once.
    """

    name: str
    libraries: tuple[str, ...]
    sources: tuple[str, ...]
    needs: tuple[str, ...]
    batches: bool = False


# How models of transformers are loaded: by a pipeline, or by an Auto class.
LOADING = ("checkpoint", "loading")
MODELS = ("checkpoint", "models")
# What every module's script and its fetching of the weights take.
ALWAYS = ("huggingface_hub", "numpy", "PyYAML", "safetensors", "torch")
PLAIN = (*ALWAYS, "transformers")
# Many models have no tokenizer but SentencePiece's own file, which those two read.
TEXT = (*PLAIN, "protobuf", "sentencepiece")
# Some tokenizers of translators and of generators split words as Moses does.
WORDS = (*TEXT, "sacremoses")
SIGHT = (*PLAIN, "pillow")
HEARING = (*TEXT, "scipy", "soundfile")
# What reads pictures here is written against torchvision first; the rest of transformers does
# without, and is as it is tested only where it is not installed.
VISION = (*SIGHT, "torchvision")

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "pipeline", ("transformers",), (*LOADING, "pipeline"), (*TEXT, "pillow"), batches=True
        ),
        Family("generation", ("transformers",), (*LOADING, "generation"), WORDS, batches=True),
        Family("hearing", ("transformers",), (*LOADING, "audio", "hearing"), HEARING),
        Family("voice", ("transformers",), (*LOADING, "voice"), TEXT),
        Family(
            "pictures",
            ("transformers",),
            (*LOADING, "drawing", "pictures"),
            (*SIGHT, "scipy"),
        ),
        Family("masking", ("transformers",), (*LOADING, "drawing", "masking"), VISION),
        Family(
            "documents",
            ("transformers",),
            (*LOADING, "several", "documents"),
            (*TEXT, "pillow"),
        ),
        Family(
            "tables",
            ("transformers",),
            (*LOADING, "several", "tables"),
            (*TEXT, "pandas"),
        ),
        Family("rewriting", ("transformers",), (*MODELS, "rewriting"), WORDS, batches=True),
        Family("reading", ("transformers",), (*MODELS, "several", "reading"), TEXT),
        Family("choosing", ("transformers",), (*MODELS, "several", "choosing"), TEXT),
        Family(
            "asking",
            ("transformers",),
            (*MODELS, "several", "asking"),
            (*TEXT, "pillow"),
        ),
        Family(
            "conversing",
            ("transformers",),
            (*MODELS, "several", "audio", "moving", "conversing"),
            (*HEARING, "pillow", "timm", "torchvision"),
        ),
        Family("watching", ("transformers",), (*MODELS, "moving", "watching"), SIGHT),
        Family("upscaling", ("transformers",), (*MODELS, "drawing", "upscaling"), SIGHT),
        Family("keypoints", ("transformers",), (*MODELS, "keypoints"), SIGHT),
        Family(
            "searching",
            ("transformers",),
            (*MODELS, "searching"),
            (*TEXT, "pillow", "torchvision"),
        ),
        Family("forecasting", ("transformers",), (*MODELS, "forecasting"), PLAIN),
        Family(
            "sentences",
            ("sentence-transformers",),
            ("checkpoint", "sentences"),
            (*TEXT, "sentence-transformers"),
            batches=True,
        ),
        Family(
            "diffusion",
            ("diffusers",),
            ("checkpoint", "diffusion"),
            (*TEXT, "pillow", "accelerate", "diffusers", "ftfy"),
        ),
        # For models that are made for torchvision, or that see through one of timm's.
        Family(
            "pipeline-vision",
            ("transformers",),
            (*LOADING, "pipeline"),
            (*TEXT, *VISION, "timm"),
            batches=True,
        ),
        Family(
            "pictures-vision",
            ("transformers",),
            (*LOADING, "drawing", "pictures"),
            (*VISION, "scipy", "timm"),
        ),
        Family(
            "backbones",
            ("timm",),
            ("backbones",),
            (*ALWAYS, "pillow", "timm", "torchvision"),
            batches=True,
        ),
    )
}


def with_vision(family: str) -> str:
    """The family of the same code that also has torchvision and timm; itself, if there is none."""
    return f"{family}-vision" if f"{family}-vision" in FAMILIES else family


# Of models that judge a text as a whole: what is said of one that is longer than they read.
CUT = " A text longer than the model reads is cut at its end."
TOP_K = Parameter("top_k", "integer", "How many labels to answer, best first.", None, 1, 1000)

TASKS = {
    task.name: task
    for task in (
        Task(
            "text-classification",
            "pipeline",
            "text",
            "For each input a list of {label, score}, best first." + CUT,
            ("ForSequenceClassification",),
            parameters=(TOP_K,),
        ),
        Task(
            "token-classification",
            "pipeline",
            "text",
            "For each input a list of {entity or entity_group, score, word, start, end}.",
            ("ForTokenClassification",),
            parameters=(
                Parameter(
                    "aggregation_strategy",
                    "string",
                    "How tokens become entities: none, simple, first, average or max.",
                    "simple",
                ),
            ),
        ),
        Task(
            "fill-mask",
            "pipeline",
            "text",
            "For each input a list of {token_str, token, score, sequence}, best first. [MASK] in "
            "the text stands for the word to be found.",
            ("ForMaskedLM", "ForPreTraining", "WithLMHeadModel"),
            parameters=(TOP_K,),
        ),
        Task(
            "zero-shot-classification",
            "pipeline",
            "text",
            "For each input {sequence, labels, scores}, best first." + CUT,
            ("ForSequenceClassification",),
            parameters=(
                Parameter(
                    "candidate_labels",
                    "string",
                    "The labels to choose from, separated by commas.",
                    "positive, negative",
                ),
                Parameter("multi_label", "boolean", "Whether several labels may hold.", False),
            ),
        ),
        Task(
            "feature-extraction",
            "pipeline",
            "text",
            "For each input the last hidden state: a list of vectors, one per token." + CUT,
        ),
        Task(
            "text-generation",
            "generation",
            "text",
            "For each input {generated_text}, without the input itself.",
            ("ForCausalLM", "LMHeadModel"),
            batch_size=1,
            parameters=(
                Parameter("max_new_tokens", "integer", "Most tokens to generate.", 128, 1, 32_768),
                Parameter(
                    "temperature",
                    "number",
                    "0: always the likeliest token; above: chosen at random, the higher the freer.",
                    0.0,
                    0,
                    5,
                ),
                Parameter(
                    "top_p", "number", "Choose among tokens of this total probability.", None, 0, 1
                ),
                Parameter(
                    "top_k", "integer", "Choose among so many tokens; 0: all.", None, 0, 100_000
                ),
                Parameter("repetition_penalty", "number", "Above 1: repeat less.", None, 0.1, 10),
            ),
            generates=True,
        ),
        Task(
            "image-classification",
            "pipeline",
            "image",
            "For each input a list of {label, score}, best first.",
            ("ForImageClassification", "ForImageClassificationWithTeacher"),
            parameters=(TOP_K,),
        ),
        Task(
            "image-feature-extraction",
            "pipeline",
            "image",
            "For each input the last hidden state: a list of vectors, one per patch.",
        ),
        Task(
            "object-detection",
            "pipeline",
            "image",
            "For each input a list of {label, score, box: {xmin, ymin, xmax, ymax}} in pixels.",
            ("ForObjectDetection",),
            batch_size=1,
            parameters=(Parameter("threshold", "number", "Least score to answer.", 0.5, 0, 1),),
        ),
    )
}
