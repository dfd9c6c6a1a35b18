"""Text generation by llama.cpp: loading of the GGUF file, and requests."""

import json
from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.llama import settings, start


def load_server(manifest: dict[str, Any], directory: str) -> tuple[Any, bool]:
    """Load the module's GGUF file; return the server, and whether it has a chat template."""
    return start(settings(manifest, directory)), manifest["run"]["chat"]


def generate(server: Any, request: dict[str, Any], max_tokens: int) -> str:
    """Return the generated text. Raises InvalidInput if the request exceeds the context."""
    by_turns = "messages" in request
    ask = server.handle_chat_completions if by_turns else server.handle_completions
    # A token is at least a byte: most requests have room for certain, and are not counted first.
    if len(json.dumps(request)) + request["max_tokens"] > max_tokens:
        used = count(ask, request)
        if used + request["max_tokens"] > max_tokens:
            raise too_long(used, request, max_tokens)
    try:
        result = ask(request)
    except RuntimeError as error:  # a template that refuses roles or turns
        raise InvalidInput(f"inputs: llama.cpp refuses them: {str(error)[:500]}") from None
    if fault := result.get("error"):
        if fault.get("type") == "exceed_context_size_error":
            raise too_long(fault["n_prompt_tokens"], request, max_tokens)
        raise InvalidInput(f"inputs: llama.cpp refuses them: {str(fault.get('message'))[:500]}")
    used = result["usage"]["prompt_tokens"]
    if used + request["max_tokens"] > max_tokens:
        raise too_long(used, request, max_tokens)
    [choice] = result["choices"]
    return str(choice["message"]["content"] if by_turns else choice["text"])


def count(ask: Any, request: dict[str, Any]) -> int:
    """Return the tokens of a request, or 0 if llama.cpp refuses it, without generating."""
    first: dict[str, Any] = {}

    def stop(part: dict[str, Any]) -> bool:
        first.update(part)
        return True

    try:
        # The first part of a stream says how long the input is, before it is read.
        ask(request | {"stream": True, "return_progress": True}, stop)
    except RuntimeError:
        return 0  # the request itself tells why
    return int(first.get("prompt_progress", {}).get("total", 0))


def too_long(used: int, request: dict[str, Any], max_tokens: int) -> InvalidInput:
    return InvalidInput(
        f"inputs: {used} tokens and max_new_tokens {request['max_tokens']} are more than the "
        f"{max_tokens} that the module has room for"
    )
