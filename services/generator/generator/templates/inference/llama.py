"""Loader of GGUF files, by llama.cpp."""

import os
import tempfile
from pathlib import Path
from typing import Any


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
    params.verbosity, params.endpoint_metrics = 1, True
    return params


def start(params: Any) -> Any:
    """Return llama.cpp's server with a model loaded."""
    import xllamacpp

    # The server listens, though nothing asks it: at a file, as no network may be had at all.
    with tempfile.TemporaryDirectory() as folder:
        params.hostnames = [str(Path(folder, "llama.sock"))]
        server = xllamacpp.Server(params)
    # Its loop may start after this, and would then miss the end of a server that nothing asked,
    # for ever. What the loop itself answers shows that it runs.
    server.handle_metrics()
    return server
