"""Trials of modules with a given script."""

from pathlib import Path
from typing import Any

import yaml

from benchmarker.worker.confinement import confined
from benchmarker.worker.sandbox import Sandbox, detect
from benchmarker.worker.session import run_module

SANDBOX = detect()
MEMORY_SHARE = 0.9
# A machine without bubblewrap, or one whose kernel refuses namespaces.
WEAK = Sandbox((), (), ("user", "files", "processes"))
MANIFEST = {
    "model": {"id": "a/b", "task": "text-classification", "library": "transformers", "files": []},
    "resources": {"memoryMiB": 256, "timeout": 1800},
    "inputs": [{"name": "text"}, {"name": "seed"}],
}
ANSWER = """
import json, os
from pathlib import Path
def answer(*outputs):
    written = {"status": "success", "outputs": outputs}
    (Path(os.environ["OUTPUT_DIR"]) / "result.json").write_text(json.dumps(written))
"""


async def attempt(
    folder: Path,
    script: str,
    *,
    requirements: str = "",
    seconds: float = 60,
    sandbox: Sandbox = SANDBOX,
    **fields: Any,
) -> dict[str, Any]:
    """Return the verdict on a module with the given script."""
    files = {
        "module.yaml": yaml.safe_dump({**MANIFEST, **fields}),
        "requirements.txt": requirements,
        "run_inference.py": ANSWER + script,
    }
    model = folder / "model"
    model.mkdir(exist_ok=True)
    memory = yaml.safe_load(files["module.yaml"])["resources"]["memoryMiB"]
    with confined(sandbox, str(model), MEMORY_SHARE, memory) as confinement:
        return await run_module(files, str(model), seconds, confinement)
