"""Program that runs modules' scripts one after another in a process that has loaded the libraries.

    python driver.py fetch < RUNS
    python driver.py run < RUNS > RESULTS
    python driver.py apart < RUNS_BY_PACKAGES > RESULTS

The last two run without a network. RUNS is JSON {name: {"app": folder, "runs":
[{variable: value}, ...], "library": [task, parameters, inputs] or left out}}; RESULTS is JSON
{name: {"runs": [[exit code, result.json], ...], "library": what transformers itself answers}}.
Of RUNS_BY_PACKAGES, JSON {folder of packages: RUNS}, each part runs in a process that has just
those packages, forked from one that has loaded what all of them have.
"""

import contextlib
import functools
import importlib
import json
import os
import site
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml


def fetch(app: Path) -> None:
    names, manifest = names_of(app), yaml.safe_load((app / "module.yaml").read_text("utf-8"))
    names["fetch"](manifest)
    if "convert" in names:
        names["convert"](manifest, app / "model")


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
        if "converted" in names:
            manifest = names["converted"](manifest, app / "model")
        code = names["run"](manifest, lambda *given: coarse(names["load"](*given)), names["answer"])
        return code, json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def coarse(model: Any) -> Any:
    """Make Shap-E decode meshes on a coarser, faster grid; return the model unchanged."""
    if renderer := sys.modules.get("diffusers.pipelines.shap_e.renderer"):
        to_mesh = vars(renderer.ShapERenderer)["decode_to_mesh"]
        if not isinstance(to_mesh, functools.partialmethod):
            renderer.ShapERenderer.decode_to_mesh = functools.partialmethod(to_mesh, grid_size=24)
    return model


def run_all(runs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "runs": [run(Path(run_of["app"]), variables) for variables in run_of["runs"]],
            "library": by_the_library(run_of["app"], *run_of["library"])
            if "library" in run_of
            else None,
        }
        for name, run_of in runs.items()
    }


def by_the_library(app: str, task: str, parameters: dict[str, Any], inputs: list[Any]) -> Any:
    import transformers  # noqa: PLC0415 - to be loaded with the packages of the module

    pipeline = transformers.pipeline(task, model=f"{app}/model", device="cpu")
    answers = [pipeline(value, **parameters) for value in inputs]
    return json.loads(json.dumps(answers, default=float))


def run_apart(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    # Imported in advance: unlike transformers, these load the same whatever else is installed, and
    # take half of its loading time.
    for package in ("huggingface_hub", "torch._dynamo", "torch.distributed.tensor"):
        importlib.import_module(package)
    results = {}
    for folder, some in runs.items():
        answers = Path(f"{folder}.json")
        if os.fork() == 0:
            sys.path.insert(0, folder)
            site.execsitecustomize()
            answers.write_text(json.dumps(run_all(some)), encoding="utf-8")
            os._exit(0)
        if os.wait()[1] != 0:
            sys.exit(f"the process of {', '.join(some)} failed")
        results |= json.loads(answers.read_text(encoding="utf-8"))
    return results


def main() -> None:
    what, runs = sys.argv[1], json.load(sys.stdin)
    if what == "fetch":
        for run_of in runs.values():
            fetch(Path(run_of["app"]))
        return
    with contextlib.redirect_stdout(sys.stderr):
        results = run_apart(runs) if what == "apart" else run_all(runs)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
