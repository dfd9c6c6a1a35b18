"""The tasks that are measured: one row each.

A row says how the model is loaded and what one input is made of. The worker
turns `auto_class` into a class of transformers; control only asks whether
there is a row.
"""

from dataclasses import dataclass
from typing import Literal

Takes = Literal["text", "image"]


@dataclass(frozen=True)
class Task:
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
        Task("fill-mask", "AutoModelForMaskedLM", "text"),
        Task("feature-extraction", "AutoModel", "text"),
        Task("sentence-similarity", "AutoModel", "text"),
        Task("text-generation", "AutoModelForCausalLM", "text", generates=True),
        Task("image-classification", "AutoModelForImageClassification", "image"),
        Task("image-feature-extraction", "AutoModel", "image"),
        Task("object-detection", "AutoModelForObjectDetection", "image"),
        Task("image-segmentation", "AutoModelForSemanticSegmentation", "image"),
        Task("depth-estimation", "AutoModelForDepthEstimation", "image"),
    )
}
