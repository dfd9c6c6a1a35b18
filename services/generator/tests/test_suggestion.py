"""Refusals of misspelt ids suggest the most similar one that the Hub's search finds."""

import pytest

from common.contracts.generation import GenerateRequest
from common.errors import ModelNotFound
from generator.handlers import Handlers
from generator.hub import NO_SUCH_MODEL, Hub
from generator.suggestion import nearest
from hub.app import MEMBER_TOKEN
from hub.testing import RunningHub


async def refusal(handlers: Handlers, model: str) -> ModelNotFound:
    with pytest.raises(ModelNotFound) as caught:
        await handlers.generate(GenerateRequest(model_url=model))
    return caught.value


@pytest.mark.parametrize(
    "model",
    [
        "lilypad/tiny-text-clasification",
        "https://huggingface.co/lilypad/Tiny_Text-Classification",
        "lillypad/tiny-text-classification",  # a misspelt owner, which has no models
        "tiny-text-classificaton",  # without an owner
    ],
)
async def test_a_misspelt_id_is_refused_with_the_nearest_one(
    handlers: Handlers, model: str
) -> None:
    error = await refusal(handlers, model)
    assert "; did you mean `lilypad/tiny-text-classification`?" in error.message
    assert error.details == {"suggestion": "lilypad/tiny-text-classification"}


async def test_an_id_similar_to_no_other_is_refused_without_a_suggestion(
    handlers: Handlers,
) -> None:
    error = await refusal(handlers, "nobody/xyzzy-42")
    assert error.message.startswith(NO_SUCH_MODEL)
    assert error.details == {}


async def test_a_private_model_is_never_suggested(hub: RunningHub) -> None:
    """The server's own token can read the model."""
    client = Hub(hub.url, MEMBER_TOKEN)
    try:
        assert (await client.model("lilypad/tiny-private", "main"))["private"]
        assert await nearest(client, "lilypad/tiny-privat") != "lilypad/tiny-private"
    finally:
        await client.close()


async def test_a_missing_revision_is_named_without_a_suggestion(handlers: Handlers) -> None:
    error = await refusal(
        handlers, "https://huggingface.co/lilypad/tiny-text-classification/tree/absent"
    )
    assert "suggestion" not in error.details


async def test_a_failed_search_leaves_the_refusal_unchanged(
    handlers: Handlers, hub: RunningHub
) -> None:
    with hub.faults("status", status=500, path=r"^/api/models\?"):
        error = await refusal(handlers, "lilypad/tiny-text-clasification-2")
    assert error.message.startswith(NO_SUCH_MODEL)
