"""Texts as vectors."""

from typing import Any

from generator.templates.inference.dimensions import cut
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.sentences import load as load
from generator.templates.inference.sentences import routers
from generator.templates.inference.texts import check_texts


def answer(
    model: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one vector per text."""
    check_texts(inputs)
    # If the model has prompts, each of these methods prepends its own to a text.
    encoders = {
        None: model.encode_document if routes_documents(model) else model.encode,
        "query": model.encode_query,
        "document": model.encode_document,
    }
    if parameters["role"] not in encoders:
        raise InvalidInput("role: must be query or document")
    role = parameters["role"]
    if role and not all(has_route(router, role) for router in routers(model)):
        raise InvalidInput(f"role: the model has no route for a {role}")
    encode = encoders[role]
    usual = cut(model, manifest, parameters["dimensions"])
    return [vector.tolist() for vector in encode(inputs, **usual)]


def routes_documents(model: Any) -> bool:
    """Return whether a router of the model has a separate route for documents."""
    return any(
        "document" in (*router.sub_modules, *(task for task, _ in router.route_mappings))
        for router in routers(model)
    )


def has_route(router: Any, role: str) -> bool:
    """Return whether a router has a route for a text of this role, apart from its default."""
    mapped = {task for task, modality in router.route_mappings if modality in (None, "text")}
    return role in router.sub_modules or bool(mapped & {role, None})
