"""The module's files, made from its manifest and from constant templates.

No text of a caller or a model's owner becomes code: values reach a file only as
JSON or YAML, or as one of this program's own constants.
"""

import ast
import json
import re
import shlex
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from generator import requirements
from generator.manifest import Manifest, variant
from models.families import FAMILIES, STACKS
from models.tasks import INPUTS, Task, row
from models.tasks.pairs import PAIR, of_pairs
from models.tasks.row import ENDINGS

TEMPLATES = files("generator") / "templates"
# How to pass a file on the network's command line, which takes no file names.
ON_THE_NETWORK = {
    "image": '"$(base64 -w0 image.png | tr -d =)"',
    "audio": '"$(base64 -w0 sound.wav | tr -d =)"',
    "video": '"$(base64 -w0 clip.png | tr -d =)"',
    "table": '"$(cat table.csv)"',
}
# The package that files of inference code import each other from.
PACKAGE = "generator.templates.inference."
# Files of inference code that replace others in modules without torch.
WITHOUT_TORCH = {"devices": "processors"}


def render(module: Manifest) -> dict[str, str]:
    """Render the six files, by name."""
    task = row(module.model.task, module.model.library)
    if any(given.name in PAIR and given.required for given in module.inputs):
        task = of_pairs(task)
    return {
        "Dockerfile": _fill(
            "Dockerfile.j2",
            base=module.run.base_image,
            gpu=module.resources.gpu,
            unused=unused(module.run.stack),
            torch_index=module.run.torch_index,
            converts=module.converts,
            torch="torch" in STACKS[module.run.stack],
        ),
        "README.md": _fill(
            "README.md.j2",
            module=module,
            tag=tag(module),
            examples=examples(task),
            sent=ON_THE_NETWORK,
            request=request(task),
            sample=sample(module, task),
            encoded=encoded(task),
            needed=needed(task),
            answers=str(task.returns),
            torch="torch" in STACKS[module.run.stack],
        ),
        "lilypad_module.json.tmpl": _fill(
            "lilypad_module.json.tmpl.j2",
            module=module,
            image=image(module),
            size=_short(module.model.parameters),
        ),
        "module.yaml": module.to_yaml(),
        "requirements.txt": requirements.read(module.run.stack),
        "run_inference.py": script(module.run.family, converts=module.converts),
    }


def examples(task: Task) -> list[tuple[str, str]]:
    """Return example inputs of the task by name, quoted for a shell."""
    return [(name, quote(value)) for name, value in task.examples.items()]


def request(task: Task) -> str:
    """Return the shell command that prints the example inputs as a JSON request."""
    subject, *others = task.examples
    values: dict[str, Any] = {"inputs": task.examples[subject]}
    if others:
        values["parameters"] = {name: task.examples[name] for name in others}
    kind = INPUTS[task.takes]
    if not kind.file:
        return f"printf %s {shlex.quote(json.dumps(values))}"
    if task.takes == "table":  # text, which JSON writes in a way of its own
        values["inputs"] = None
        read = f"dict({values!r}, inputs=open({kind.example!r}).read())"
        return f"python3 -c {shlex.quote(f'import json; print(json.dumps({read}))')}"
    text = json.dumps(values | {"inputs": "@"}).replace("\\", "\\\\").replace("%", "%%")
    text = text.replace('"@"', '"%s"')
    return f'printf {shlex.quote(text)} "$(base64 -w0 {kind.example})"'


def sample(module: Manifest, task: Task) -> str:
    """Return an example result.json of the task."""
    result = {
        "status": "success",
        "model": {"id": module.model.id, "commit": module.model.commit, "task": task.tag},
        "outputs": [task.returns.sample],
        "timings": {"verify": 0.2, "load": 3.1, "inference": 0.4},
        "device": "cuda" if module.resources.gpu else "cpu",
    }
    return json.dumps(result, ensure_ascii=False)


def encoded(task: Task) -> dict[str, str] | None:
    """Describe the first field of an answer that holds a file; None if no field does."""
    found = task.returns.encoded
    if found is None:
        return None
    name, kind = found
    path = ("[0]" if task.returns.many else "") + f"['{name}']"
    return {"kind": kind, "path": path, "ending": ENDINGS[kind]}


def quote(value: str) -> str:
    """Quote a value as one shell word on one line."""
    if "\n" in value:
        return "$'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return shlex.quote(value)


def needed(task: Task) -> str | None:
    """Describe the example file that the README's commands read; None if they read none."""
    kind = INPUTS[task.takes]
    return f"`{kind.example}`, {kind.file}" if kind.file else None


def image(module: Manifest) -> str:
    """Return a placeholder image name, which the publisher replaces with the pushed digest."""
    return f"docker.io/your-name/{module.name}:{tag(module)}"


def tag(module: Manifest) -> str:
    """Return the image's tag: the commit, and the GGUF file if the module runs one."""
    return "-".join(filter(None, (module.model.commit[:12], variant(module.run.file))))


def unused(stack: str) -> list[str]:
    """Return the packages that CUDA images contain but the stack does not use."""
    return [name for name in ("torchvision", "torchaudio") if name not in STACKS[stack]]


@cache
def script(family: str, *, converts: bool = False) -> str:
    """Build run_inference.py: the family's code, its imports and the program, in one file.

    With `converts`, also the code that converts pickled weights.
    """
    instead = {} if "torch" in STACKS[FAMILIES[family].stack] else WITHOUT_TORCH
    imports: list[ast.Import | ast.ImportFrom] = []
    sources: dict[str, str] = {}

    def add(name: str) -> None:
        text = (TEMPLATES / "inference" / f"{name}.py").read_text(encoding="utf-8")
        body = ast.parse(text).body
        end = 1
        for node in body[1:]:
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                break
            end += 1
            module = getattr(node, "module", None) or ""
            if not module.startswith(PACKAGE):
                imports.append(node)
            else:
                name_of_file = module.removeprefix(PACKAGE)
                name_of_file = instead.get(name_of_file, name_of_file)
                if name_of_file not in sources:
                    add(name_of_file)
        rest = "\n".join(text.splitlines()[body[end - 1].end_lineno or 0 :])
        sources[name] = rest.strip()

    add(family)
    if "program" not in sources:
        add("program")
    if converts and "conversion" not in sources:
        add("conversion")
    program = (TEMPLATES / "inference" / "program.py").read_text(encoding="utf-8")
    docstring = program[: program.index('"""', 3) + 3]
    parts = [f"# --- {name} ---\n\n{text}" for name, text in _without_replaced(sources).items()]
    start = "main_converting" if converts else "main"
    main = f'if __name__ == "__main__":\n    sys.exit({start}(load, answer))\n'
    return "\n\n\n".join([docstring + "\n\n" + _merged(imports), *parts, main])


def _merged(imports: list[ast.Import | ast.ImportFrom]) -> str:
    """Write the imports of several files as those of one: each name once, each module on a line."""
    names: dict[str, set[str]] = {}
    for node in imports:
        imported = {ast.unparse(name) for name in node.names}
        if isinstance(node, ast.Import):
            names |= {f"import {name}": set() for name in imported}
        else:
            names.setdefault(f"from {node.module} import ", set()).update(imported)
    lines = [start + ", ".join(sorted(names)) for start, names in names.items()]
    return "\n".join(sorted(lines, key=lambda line: (line.split()[1] == "yaml", line)))


def _without_replaced(sources: dict[str, str]) -> dict[str, str]:
    """Leave out each function that a later file defines anew: only the last one would be called."""
    defined: set[str] = set()
    kept: dict[str, str] = {}
    for name, text in reversed(sources.items()):
        lines = text.splitlines()
        own = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        for node in reversed(own):
            if node.name in defined:
                del lines[node.lineno - 1 : node.end_lineno]
        defined |= {node.name for node in own}
        if rest := re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip():
            kept[name] = rest
    return dict(reversed(kept.items()))


def as_json(value: Any) -> str:
    """Encode JSON on one line, its braces escaped so that the network's template ignores them."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("{{", "\\u007b\\u007b").replace("}}", "\\u007d\\u007d")


def _load(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # Square brackets, since the network's own template language uses braces. HTML escaping would be
    # wrong in all of these files; values are typed or pass through as_json.
    environment = Environment(  # noqa: S701
        loader=FunctionLoader(_load),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    environment.filters["json"] = as_json
    return environment


def _fill(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(values)


def _short(count: int) -> str:
    """Shorten 1234567 to 1.23M, the way model sizes are written."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
