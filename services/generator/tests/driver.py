"""Fetches for and runs modules' scripts one after another in one process, which has loaded the
libraries once.

    python driver.py fetch < RUNS
    python driver.py run < RUNS > RESULTS

The second needs no network, and is given none. RUNS is JSON {name: {"app": folder, "runs":
[{variable: value}, ...]}}; RESULTS is JSON {name: [[exit code, result.json], ...]}.
"""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml


def fetch(app: Path) -> None:
    names = names_of(app)
    names["fetch"](yaml.safe_load((app / "module.yaml").read_text(encoding="utf-8")))


def names_of(app: Path) -> dict[str, Any]:
    script = app / "run_inference.py"
    names: dict[str, Any] = {"__name__": "module", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), names)
    return names


def run(app: Path, variables: dict[str, str]) -> tuple[int, Any]:
    for name in [name for name in os.environ if name.startswith(("INPUT_", "REQUEST_"))]:
        if name != "INPUT_DIR":
            del os.environ[name]
    os.environ.update(variables)
    names = names_of(app)
    with tempfile.TemporaryDirectory() as folder:
        names["OUTPUT_DIR"] = Path(folder)
        manifest = yaml.safe_load((app / "module.yaml").read_text(encoding="utf-8"))
        code = names["run"](manifest)
        return code, json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def main() -> None:
    asked = json.load(sys.stdin)
    if sys.argv[1:] == ["fetch"]:
        for one in asked.values():
            fetch(Path(one["app"]))
        return
    with contextlib.redirect_stdout(sys.stderr):
        results = {
            name: [run(Path(one["app"]), variables) for variables in one["runs"]]
            for name, one in asked.items()
        }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
