"""Loads a model and what prepares its inputs, for tasks that no pipeline serves."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, whole


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """The model over the files in `directory`, and what prepares its inputs, if anything."""
    import torch
    import transformers

    settings, task = manifest["run"], manifest["model"]["task"]
    chosen = getattr(transformers, auto_class(task))

    def build(attention: str) -> Any:
        return chosen.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
        )

    try:
        model = whole(lambda: build(settings["attention"]))
    except ValueError:  # an architecture without this attention: the reference serves every one
        model = whole(lambda: build("eager"))
    model = model.to(device).eval()
    if settings["compile"]:
        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model.compile(dynamic=True)
    if task == "time-series-forecasting":
        return model, None
    if model.config.model_type == "vision-encoder-decoder":  # two models, and none for both
        pair = (transformers.AutoImageProcessor, transformers.AutoTokenizer)
        readers = tuple(reader.from_pretrained(directory) for reader in pair)
        check_vocabulary(readers[1])
        return model, readers
    if task in ("image-to-image", "keypoint-detection", "video-classification"):
        return model, transformers.AutoImageProcessor.from_pretrained(directory)
    processor = transformers.AutoProcessor.from_pretrained(directory, trust_remote_code=False)
    check_vocabulary(getattr(processor, "tokenizer", processor))
    return model, processor


def auto_class(task: str) -> str:
    """The class of transformers that loads a task's models."""
    return {
        "any-to-any": "AutoModelForMultimodalLM",
        "audio-text-to-text": "AutoModelForMultimodalLM",
        "image-text-to-text": "AutoModelForImageTextToText",
        "image-to-image": "AutoModelForImageToImage",
        "image-to-text": "AutoModelForImageTextToText",
        "keypoint-detection": "AutoModelForKeypointDetection",
        "multiple-choice": "AutoModelForMultipleChoice",
        "question-answering": "AutoModelForQuestionAnswering",
        "summarization": "AutoModelForSeq2SeqLM",
        "time-series-forecasting": "AutoModelForTimeSeriesPrediction",
        "translation": "AutoModelForSeq2SeqLM",
        "video-classification": "AutoModelForVideoClassification",
        "video-text-to-text": "AutoModelForImageTextToText",
        "visual-document-retrieval": "ColQwen2ForRetrieval",
        "visual-question-answering": "AutoModelForVisualQuestionAnswering",
    }[task]
