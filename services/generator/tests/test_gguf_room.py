"""GGUF modules and refused requests: nothing is generated first, and the process ends."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.templates.inference import llama_writing
from generator.templates.inference.inputs import InvalidInput
from hub import gguf as written


class Watched:
    """A server of llama.cpp that counts the requests which generate to the end."""

    def __init__(self, server: Any) -> None:
        self.server, self.generated = server, 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(request: dict[str, Any], *callback: Any) -> Any:
            self.generated += not callback
            return getattr(self.server, name)(request, *callback)

        return ask


def test_a_request_beyond_the_context_is_refused_before_anything_is_generated(
    tmp_path: Path,
) -> None:
    written.llama(tmp_path / "model.gguf", context=512)
    run = {"file": "model.gguf", "maxTokens": 512, "chat": True}
    server, _ = llama_writing.load_server({"run": run, "resources": {"cpu": 2}}, str(tmp_path))
    watched, text = Watched(server), "a" * 400
    for asked in ({"prompt": text}, {"messages": [{"role": "user", "content": text}]}):
        with pytest.raises(InvalidInput, match="and max_new_tokens 200 are more than the 512"):
            llama_writing.generate(watched, {**asked, "max_tokens": 200}, 512)
    assert watched.generated == 0
    llama_writing.generate(watched, {"prompt": text, "max_tokens": 4}, 512)
    assert watched.generated == 1


def test_a_module_whose_model_is_dropped_before_any_request_ends(tmp_path: Path) -> None:
    written.llama(tmp_path / "model.gguf", context=512)
    program = (
        "import sys; from generator.templates.inference.llama_writing import load_server\n"
        "run = {'file': 'model.gguf', 'maxTokens': 512, 'chat': True}\n"
        "for _ in range(25): load_server({'run': run, 'resources': {'cpu': 2}}, sys.argv[1])"
    )
    # In its own process, which can be ended: a server that waits for ever holds the interpreter.
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=180)
