"""How well a page, as a picture, answers a question."""

from typing import Any

from generator.templates.inference.module import InvalidInput, check_texts, read_image


def answer(
    loaded: tuple[Any, Any], _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One {score, vectors} per page; what was not asked for is null."""
    import torch

    model, processor = loaded
    query = parameters["query"]
    if query is None and not parameters["vectors"]:
        raise InvalidInput("query: is missing, and vectors are not asked for")
    asked = None
    with torch.inference_mode():
        if query is not None:
            check_texts([query])
            asked = model(**processor.process_queries(text=[query]).to(model.device)).embeddings
        answers = []
        for picture in [read_image(value) for value in inputs]:
            page = processor.process_images(images=[picture]).to(model.device, model.dtype)
            vectors = model(**page).embeddings
            score = None
            if asked is not None:
                score = float(processor.score_retrieval(asked.float(), vectors.float())[0, 0])
            wanted = vectors[0].float().tolist() if parameters["vectors"] else None
            answers.append({"score": score, "vectors": wanted})
    return answers
