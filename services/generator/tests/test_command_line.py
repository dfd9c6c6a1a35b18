"""README examples, passed through the network's command line unchanged."""

import base64
import csv
import json
import subprocess
from pathlib import Path

import pytest

from generator import rendering
from models.tasks import INPUTS, ROWS, Task


def read(argument: str) -> dict[str, str]:
    """Parse `name=value` as pflag's StringToString, which `lilypad run` uses for its inputs.

    Written after spf13/pflag, string_to_string.go.
    """
    if argument.count("=") == 1:
        pairs = [argument.strip('"')]
    else:
        first = argument.splitlines()[0]  # a record ends with its line
        pairs = next(csv.reader([first], strict=True))
        if any('"' in field and not field.startswith('"') for field in first.split(",")):
            raise ValueError('bare " in non-quoted field')
    if not all("=" in pair for pair in pairs):
        raise ValueError("must be formatted as key=value")
    return dict(pair.split("=", 1) for pair in pairs)


def test_the_command_line_alters_values_as_the_readme_warns() -> None:
    assert read("text=a, b") == {"text": "a, b"}
    assert read('text=hi "there"') == {"text": 'hi "there'}
    with pytest.raises(ValueError, match="key=value"):
        read("text=a=b, hello")
    assert read("text=x=1, y=2") == {"text": "x=1", " y": "2"}
    assert read("text=a=b\nsecond line") == {"text": "a=b"}
    with pytest.raises(ValueError, match="bare"):
        read('text=a="b"')


ROWS_BY_EXAMPLES: dict[str, Task] = {json.dumps(row.examples): row for row in ROWS}


@pytest.mark.parametrize("task", ROWS_BY_EXAMPLES.values(), ids=lambda task: task.tag)
def test_an_example_passes_the_command_line_unchanged_alone_and_in_a_request(
    task: Task, tmp_path: Path
) -> None:
    values = dict(task.examples)
    if INPUTS[task.takes].file:
        content = "name,age\nfrog,3\n" if task.takes == "table" else "\x01\x02\xff=?"
        (tmp_path / values[task.takes]).write_bytes(content.encode("latin-1"))
        encoded = base64.b64encode(content.encode("latin-1")).decode()
        values[task.takes] = content if task.takes == "table" else encoded
    arguments = " ".join(
        f"{name}={rendering.ON_THE_NETWORK.get(name, quoted)}"
        for name, quoted in rendering.examples(task)
    )
    program = f"""printf '%s\\0' {arguments}
        printf 'request=%s' "$({rendering.request(task)} | base64 -w0 | tr -d =)" """
    done = subprocess.run(["bash", "-euc", program], cwd=tmp_path, capture_output=True, check=True)
    *given, request = done.stdout.decode().split("\0")
    arrived: dict[str, str] = {}
    for argument in given:
        arrived |= read(argument)
    for name, value in values.items():  # of a table the shell drops the last line's end
        assert arrived[name].rstrip("=") == value.rstrip("=\n")
    [text] = read(request).values()
    sent = json.loads(base64.b64decode(text + "=" * (-len(text) % 4)))
    subject, *others = values
    assert sent["inputs"] == values[subject]
    assert sent.get("parameters", {}) == {name: values[name] for name in others}
