"""The labels of a text by SetFit: a sentence model, and a logistic regression of its vectors."""

import json
from pathlib import Path
from typing import Any

from generator.templates.inference.conversion import CONVERTERS
from generator.templates.inference.heads import read_head
from generator.templates.inference.sentences import load_as, options
from generator.templates.inference.texts import check_texts

HEAD = "model_head.safetensors"
SETTINGS = "config_setfit.json"  # of models saved since 2023


def convert_head(old: Path, new: Path) -> None:
    """Write the numbers of a head that joblib wrote as safetensors."""
    import numpy as np
    from safetensors.numpy import save_file

    head = read_head(old.read_bytes())
    arrays = {}
    for name in ("coef", "intercept"):
        array = head[name]
        plain = np.frombuffer(array.data, array.dtype)
        arrays[name] = np.ascontiguousarray(plain.reshape(array.shape, order=array.order))
    save_file(arrays, new, metadata={"classes": json.dumps(head["classes"])})


CONVERTERS["model_head.pkl"] = convert_head


def load(
    manifest: dict[str, Any], directory: str, device: str, dtype: Any
) -> tuple[Any, dict[str, Any], list[str], bool]:
    """Load the sentence model; return it, its head, its labels, and whether vectors have length 1.

    Raises RuntimeError if the head is for vectors of another length.
    """
    from safetensors import safe_open

    body = load_as(manifest["run"]["class"], manifest, directory, device, dtype)
    with safe_open(Path(directory, HEAD), framework="numpy") as file:
        head = {name: file.get_tensor(name) for name in ("coef", "intercept")}
        classes = json.loads(file.metadata()["classes"])
    path = Path(directory, SETTINGS)
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    labels = settings.get("labels")
    # A head that was trained on numbers has their names beside it.
    names = [str(labels[one] if labels and isinstance(one, int) else one) for one in classes]
    width = body.get_embedding_dimension()
    if width not in (None, head["coef"].shape[1]):
        raise RuntimeError(
            f"the head is for vectors of {head['coef'].shape[1]} numbers, and the model's have "
            f"{width}"
        )
    return body, head, names, settings.get("normalize_embeddings") is True


def answer(
    loaded: tuple[Any, dict[str, Any], list[str], bool],
    manifest: dict[str, Any],
    inputs: list[Any],
    parameters: dict[str, Any],
) -> list[Any]:
    """Return a list of {label, score} per text, best first."""
    body, head, names, normalize = loaded
    check_texts(inputs)
    vectors = body.encode(inputs, normalize_embeddings=normalize, **options(manifest))
    answers = []
    for scores in probabilities(head, vectors).tolist():
        ranked = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])
        best = ranked[: parameters["top_k"]]
        answers.append([{"label": label, "score": score} for label, score in best])
    return answers


def probabilities(head: dict[str, Any], vectors: Any) -> Any:
    """Return the probability of each class, as scikit-learn computes it."""
    import numpy as np

    scores = vectors.astype(np.float32) @ head["coef"].T + head["intercept"]
    if scores.shape[1] == 1:  # the score of the second of two classes
        second = 0.5 + 0.5 * np.tanh(scores / 2)
        return np.concatenate([1 - second, second], axis=1)
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
