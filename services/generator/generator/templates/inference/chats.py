"""Chats in the format that the model was trained on."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput


def write_chat(writer: Any, turns: list[Any], **options: Any) -> Any:
    """Apply the model's chat template. Raises InvalidInput if the template refuses the chat."""
    from jinja2 import TemplateError

    try:
        return writer.apply_chat_template(turns, add_generation_prompt=True, **options)
    except TemplateError as error:  # refused roles or turns that the model was not trained for
        raise InvalidInput(f"inputs: the model's chat template refuses them: {error}") from None
