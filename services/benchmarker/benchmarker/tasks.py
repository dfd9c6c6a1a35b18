"""The tasks that are measured: one row each.

A row says how the model is loaded and what one input is made of. The worker
turns `auto_class` into a class of transformers; control only asks whether
there is a row.
"""

from dataclasses import dataclass
from typing import Literal

Takes = Literal["text", "image", "audio", "pipeline"]


@dataclass(frozen=True)
class Task:
    """`auto_class` of transformers; none where the model is a pipeline of diffusers."""

    name: str
    auto_class: str
    takes: Takes
    generates: bool = False


TASKS = {
    task.name: task
    for task in (
        Task("text-classification", "AutoModelForSequenceClassification", "text"),
        Task("zero-shot-classification", "AutoModelForSequenceClassification", "text"),
        Task("text-ranking", "AutoModelForSequenceClassification", "text"),
        Task("token-classification", "AutoModelForTokenClassification", "text"),
        Task("question-answering", "AutoModelForQuestionAnswering", "text"),
        Task("fill-mask", "AutoModelForMaskedLM", "text"),
        Task("feature-extraction", "AutoModel", "text"),
        Task("sentence-similarity", "AutoModel", "text"),
        Task("text-generation", "AutoModelForCausalLM", "text", generates=True),
        Task("summarization", "AutoModelForSeq2SeqLM", "text", generates=True),
        Task("translation", "AutoModelForSeq2SeqLM", "text", generates=True),
        Task("audio-classification", "AutoModelForAudioClassification", "audio"),
        Task("automatic-speech-recognition", "AutoModelForCTC", "audio"),
        Task("image-classification", "AutoModelForImageClassification", "image"),
        Task("image-feature-extraction", "AutoModel", "image"),
        Task("object-detection", "AutoModelForObjectDetection", "image"),
        Task("image-segmentation", "AutoModelForSemanticSegmentation", "image"),
        Task("depth-estimation", "AutoModelForDepthEstimation", "image"),
        Task("unconditional-image-generation", "", "pipeline"),
        Task("text-to-image", "", "pipeline"),
        Task("image-to-image", "", "pipeline"),
    )
}


def is_measured(task: str, library: str) -> bool:
    """Whether there is a row for it, of the kind that the library's models are."""
    row = TASKS.get(task)
    return row is not None and (row.takes == "pipeline") == (library == "diffusers")
