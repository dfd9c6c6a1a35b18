"""llama.cpp: loading a GGUF file, and generation."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from generator.templates.inference.inputs import InvalidInput


def load_server(manifest: dict[str, Any], directory: str) -> tuple[Any, bool]:
    """Load the module's GGUF file; return the server, and whether it has a chat template."""
    return start(settings(manifest, directory)), manifest["run"]["chat"]


def settings(manifest: dict[str, Any], directory: str) -> Any:
    """Return llama.cpp's settings for the module's GGUF file."""
    import xllamacpp

    run = manifest["run"]
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(directory, run["file"]))
    params.n_ctx, params.n_parallel, params.n_gpu_layers = run["maxTokens"], 1, 0
    # All that the machine has would be many more than a container may use.
    threads = min(manifest["resources"]["cpu"], len(os.sched_getaffinity(0)))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # Read into memory, not mapped: what it takes is then what module.yaml asks for.
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    # One job is one process: no answer is kept for a later request.
    params.cache_ram_mib, params.n_ctx_checkpoints = 0, 0
    params.n_threads_http = 1  # of a server that nothing asks
    params.fit_params, params.ctx_shift, params.warmup = False, False, False
    # The text as the model writes it, with its thoughts and its calls of tools.
    params.use_jinja, params.force_pure_content_parser = True, True
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.verbosity = 1
    return params


def start(params: Any) -> Any:
    """Return llama.cpp's server with a model loaded."""
    import xllamacpp

    # The server listens, though nothing asks it: at a file, as no network may be had at all.
    with tempfile.TemporaryDirectory() as folder:
        params.hostnames = [str(Path(folder, "llama.sock"))]
        return xllamacpp.Server(params)


def generate(server: Any, request: dict[str, Any], max_tokens: int) -> str:
    """Return the text that the model writes. Raises InvalidInput if the request has no room."""
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
