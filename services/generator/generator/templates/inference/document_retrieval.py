"""Relevance of a page's image to a query."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.models import load as load
from generator.templates.inference.strings import check_text


def answer(
    loaded: tuple[Any, Any], _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {score, vectors} per page; a part that was not requested is null."""
    import torch

    model, processor = loaded
    query = parameters["query"]
    if query is None and not parameters["vectors"]:
        raise InvalidInput("query: is missing; send it, or set `vectors`")
    query_vectors = None
    with torch.inference_mode():
        if query is not None:
            check_text("query", query)
            query_vectors = model(
                **processor.process_queries(text=[query]).to(model.device)
            ).embeddings
        answers = []
        for picture in [read_image(value) for value in inputs]:
            page = processor.process_images(images=[picture]).to(model.device, model.dtype)
            vectors = model(**page).embeddings
            score = None
            if query_vectors is not None:
                score = float(
                    processor.score_retrieval(query_vectors.float(), vectors.float())[0, 0]
                )
            wanted = vectors[0].float().tolist() if parameters["vectors"] else None
            answers.append({"score": score, "vectors": wanted})
    return answers
