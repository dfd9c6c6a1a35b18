"""Task rows of the timm library."""

from models.tasks.row import RANKED_LABELS, TOP_K, Returns, Task

TIMM = (
    Task(
        "image-classification",
        "timm",
        "timm_classification",
        "image",
        RANKED_LABELS,
        auto_classes=("AutoModelForImageClassification",),
        parameters=(TOP_K,),
        measured=True,
    ),
    Task(
        "image-feature-extraction",
        "timm",
        "timm_embedding",
        "image",
        Returns(bare="what the model saw: one vector"),
        auto_classes=("AutoModel",),
        measured=True,
    ),
)
