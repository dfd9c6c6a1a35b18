"""Checks of the rendered files, each with the parser of its language.

The templates are written so that no value can become code. This is the second
line of defence: if a template is wrong, the module is refused.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from common.contracts.generation import Check
from common.quantities import counted
from generator import dockerfile, gotemplate, images, rendering, script
from generator.dockerfile import Instruction
from generator.gguf_files import ENDING as GGUF
from generator.manifest import Manifest, Run
from generator.onnx_files import ENDING as ONNX
from generator.onnx_files import is_data
from generator.selection import LOADED, LOADED_TOO, WHOLE, is_weights, name_of
from models.families import STACKS

Files = dict[str, str]

START = (
    Instruction("WORKDIR", ("/app",)),
    Instruction("ARG", ("HF_ENDPOINT=https://huggingface.co",)),
)
PACKAGES = (
    Instruction("COPY", ("requirements.txt", "/app/")),
    Instruction(
        "RUN",
        ("python", "-m", "pip", "install", "--no-cache-dir", "--requirement", "requirements.txt"),
    ),
)
PROGRAM = Instruction("COPY", ("module.yaml", "run_inference.py", "/app/"))
FETCH = Instruction(
    "RUN",
    ("python", "run_inference.py", "fetch"),
    ("--mount=type=secret,id=HF_TOKEN,env=HF_TOKEN",),
)
END = (
    Instruction("ENV", ("HF_HUB_OFFLINE=1",)),
    Instruction("ENTRYPOINT", ("python", "/app/run_inference.py")),
)
# Pickled weights are fetched and converted in a stage of its own, of which nothing else is kept.
CONVERSION = (
    Instruction("FROM", ("packages AS conversion",)),
    Instruction("ARG", ("HF_ENDPOINT=https://huggingface.co",)),
    PROGRAM,
    FETCH,
    Instruction("RUN", ("python", "run_inference.py", "convert"), ("--network=none",)),
    Instruction("FROM", ("packages",)),
    PROGRAM,
    Instruction("COPY", ("/app/model/", "/app/model/"), ("--from=conversion",)),
)


def first(run: Run, *, gpu: bool) -> tuple[Instruction, ...]:
    """Return the Dockerfile instructions that precede the packages, with or without CUDA."""
    if "torch" not in STACKS[run.stack]:
        return ()
    if not gpu:
        index = f"={run.torch_index}" if run.torch_index else ""
        return (Instruction("ARG", (f"PIP_EXTRA_INDEX_URL{index}",)),)
    uninstall = ("python", "-m", "pip", "uninstall", "--yes", *rendering.unused(run.stack))
    return (Instruction("ENV", ("PIP_BREAK_SYSTEM_PACKAGES=1",)), Instruction("RUN", uninstall))


# Inputs that have broken other people's modules, accidentally or deliberately.
HOSTILE = (
    'it\'s a "cat", really',
    "line\nbreak\r\n\ttab",
    "back\\slash \\u0041 \\",
    "{{ .text }}{{ end }}}}{{",
    "a=b, c=d",
    '"], "Image": "evil", "x": ["',
    "\x00\x01\x1b\x7f",
    "\u2028\u2029</script>&<>",
    "喵🐈 ﬀ",
    "",
)


def check(module: Manifest, files: Files) -> list[Check]:
    """Run one check per file, and one of the files that they name.

    After an outcome `failed` the files must not be returned.
    """
    pins = files["requirements.txt"]
    checks: dict[str, Callable[[Manifest, str], str]] = {
        "Dockerfile": check_dockerfile,
        "README.md": check_readme,
        "lilypad_module.json.tmpl": check_template,
        "module.yaml": check_manifest,
        "requirements.txt": check_requirements,
        "run_inference.py": lambda _, text: script.check(text, pins),
    }
    ran = [_run(name, check, module, files[name]) for name, check in checks.items()]
    return [_run("safety", check_safety, module, files["module.yaml"]), *ran]


def _run(name: str, check: Callable[[Manifest, str], str], module: Manifest, text: str) -> Check:
    try:
        return Check(name=name, outcome="passed", message=check(module, text))
    except (ValueError, SyntaxError, KeyError, TypeError, yaml.YAMLError, InvalidRequirement) as e:
        return Check(name=name, outcome="failed", message=f"{name}: {e}")


def check_dockerfile(module: Manifest, text: str) -> str:
    expected = [
        Instruction("FROM", (module.run.base_image + " AS packages" * module.converts,)),
        *START,
        *first(module.run, gpu=module.resources.gpu > 0),
        *PACKAGES,
        *(CONVERSION if module.converts else (PROGRAM, FETCH)),
        *END,
    ]
    if dockerfile.parse(text) != expected:
        raise ValueError("its instructions are not those of the template")
    # An owner can move a version, but not a digest.
    image = module.run.base_image
    unknown = "" if "@" in image else ", whose digest is not known: python -m generator.images FILE"
    return f"{len(expected)} instructions, those of the template, on {image}{unknown}"


def check_manifest(module: Manifest, text: str) -> str:
    read = yaml.safe_load(text)
    if read != module.to_data():
        raise ValueError("it does not parse as intended")
    Manifest.model_validate(read)  # the published schema is made from this class
    return "parses as intended, and as its schema says"


def check_safety(_: Manifest, text: str) -> str:
    """Check the files that module.yaml names: no code, and no weights that loading could run."""
    read = yaml.safe_load(text)
    model, graph = read["model"], read["run"].get("file", "")
    sources = [model, model["base"]] if "base" in model else [model]
    files = [file for source in sources for file in source["files"]]
    # Only a converted pickle is in the image, and only its conversion is loaded.
    paths = [file.get("becomes", file["path"]) for file in files]
    weights = [path for path in paths if is_weights(path) or path.endswith(GGUF)]
    if graph.endswith(ONNX):  # operators of onnxruntime's own, and their numbers
        weights += [path for path in paths if path == graph or is_data(path, graph)]
    for path in set(paths) - set(weights):
        name = name_of(path).removesuffix(".index.json")
        known = (
            name in LOADED or LOADED_TOO.fullmatch(name) or name in (*WHOLE, "adapter_config.json")
        )
        if not known:
            raise ValueError(f"the module would fetch {name}, which may hold code")
    if not weights:
        raise ValueError("the module would fetch no weights")
    form = "ONNX" if graph in weights and graph.endswith(ONNX) else "safetensors"
    form = "GGUF" if weights[0].endswith(GGUF) else form
    return f"{counted(len(paths), 'file')}: {form} weights, configs and vocabularies; no code"


def check_requirements(module: Manifest, text: str) -> str:
    """Check the pins, without resolving them: a request must not wait for a registry."""
    pins: dict[str, Requirement] = {
        canonicalize_name(pin.name): pin for pin in map(Requirement, text.splitlines())
    }
    for pin in pins.values():
        if len(pin.specifier) != 1 or next(iter(pin.specifier)).operator != "==" or pin.url:
            raise ValueError(f"{pin.name} is not pinned to one version")
    if "torch" in pins and not pins["torch"].specifier.contains(images.TORCH):
        raise ValueError(f"torch is not {images.TORCH}, which the image for a GPU has")
    missing = {canonicalize_name(name) for name in STACKS[module.run.stack]} - pins.keys()
    if missing:
        raise ValueError(f"{min(missing)} is not pinned")
    return f"{len(pins)} packages, each at one version, with all that the module's stack needs"


def check_readme(_: Manifest, text: str) -> str:
    if re.search(r"<(?!key>)|javascript:", text):
        raise ValueError("it contains markup")
    return "no markup beyond the template's"


def check_template(module: Manifest, text: str) -> str:
    """Render the template as the network does, with awkward inputs, and compare the outcome."""
    names = [scalar.name for scalar in module.inputs] + ["request"]
    variables = [scalar.env for scalar in module.inputs] + ["REQUEST_B64"]
    trials: list[dict[str, str]] = [{}, *(dict.fromkeys(names, value) for value in HOSTILE)]
    # Also each input alone, for the commas between them.
    trials += [{name: HOSTILE[0]} for name in names]
    for inputs in trials:
        rendered = _strict(gotemplate.render(text, inputs))
        docker = rendered["job"]["Spec"]["Docker"]
        expected = [
            f"{variable}={inputs.get(name, '')}"
            for variable, name in zip(variables, names, strict=True)
        ]
        if docker["EnvironmentVariables"] != expected:
            raise ValueError("an input arrives changed")
        _check_fields(module, rendered)
    return f"valid for {len(trials)} sets of awkward inputs, each arrives unchanged"


def _check_fields(module: Manifest, rendered: dict[str, Any]) -> None:
    """Check the network's rules whose violation silently changes the job."""
    needs, spec = module.resources, rendered["job"]["Spec"]
    expected_machine = {
        "gpu": needs.gpu,
        **({"gpus": [{"vram": needs.vram_mib}]} if needs.gpu else {}),
        "cpu": needs.cpu * 1000,
        "ram": needs.memory_mib,
        "disk": needs.disk_mib,
    }
    expected_resources = {
        **({"GPU": "1"} if needs.gpu else {}),
        "CPU": str(needs.cpu),
        "Memory": f"{needs.memory_mib}MiB",
    }
    if rendered["machine"] != expected_machine or spec["Resources"] != expected_resources:
        raise ValueError("it asks for other resources than the module needs")
    if not needs.execution_timeout <= spec["Timeout"] <= rendered["executionTimeoutSeconds"]:
        raise ValueError("a timeout is shorter than the job and the pull of its image")
    if spec["Docker"]["Entrypoint"] != ["python", "/app/run_inference.py"]:
        raise ValueError("it starts another program")
    if spec["Docker"]["Image"] != rendering.image(module):
        raise ValueError("it starts another image")


def _strict(text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a field is repeated")
        return dict(pairs)

    value = json.loads(text, object_pairs_hook=once)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  (what it is, not a caller's mistake)
    return value
