"""Text generation by llama.cpp, from a GGUF file."""

import random
from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.llama_writing import generate, load_server
from generator.templates.inference.texts import check_texts


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, bool]:  # noqa: ARG001  (as all families)
    """Load the GGUF file; return llama.cpp's server, and whether the model was made for chats."""
    return load_server(manifest, directory)


def answer(
    loaded: tuple[Any, bool],
    manifest: dict[str, Any],
    inputs: list[Any],
    parameters: dict[str, Any],
) -> list[Any]:
    """Return one {generated_text} per input: a text, or a chat as a list of {role, content}."""
    server, is_for_chats = loaded
    options = sampling(parameters)
    answers = []
    for value in inputs:
        request = options | {"seed": random.getrandbits(32)}
        if isinstance(value, list):
            check_chat(value, is_for_chats)
            request["messages"] = value
        else:
            check_texts([value])
            if is_for_chats and not parameters["raw"]:
                request["messages"] = [{"role": "user", "content": value}]
            else:
                request["prompt"] = value
        text = generate(server, request, manifest["run"]["maxTokens"])
        answers.append({"generated_text": text})
    return answers


def sampling(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters that the caller set, under llama.cpp's names."""
    names = {name: name for name in ("temperature", "top_p", "top_k")}
    names |= {"max_new_tokens": "max_tokens", "repetition_penalty": "repeat_penalty"}
    given = {
        name: parameters[key] for key, name in names.items() if parameters.get(key) is not None
    }
    if "repeat_penalty" in given:  # of all tokens, as transformers does, not of the last 64
        given["repeat_last_n"] = 2**31 - 1
    return given


def check_chat(turns: list[Any], is_for_chats: bool) -> None:
    if not turns or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidInput("inputs: a chat is a list of {role, content}")
    check_texts([turn.get(key) for turn in turns for key in ("role", "content")])
    if not is_for_chats:
        raise InvalidInput("inputs: this model takes a text, not a chat")
