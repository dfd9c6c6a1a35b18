"""Recorded output of the network's own renderer, and our template under any input."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.gotemplate import TemplateError, marshal, render

IDIOM = '[{{ if .x }}"X={{ slice .x 1 }}{{ else }}"X=none"{{ end }}]'


@pytest.mark.parametrize(
    ("template", "inputs", "expected"),
    [
        ("{{ .x }}", {"x": "moo"}, '"moo"'),
        ("{{ .x }}", {}, "<no value>"),
        ("{{ if .x }}yes{{ else }}no{{ end }}", {"x": ""}, "yes"),
        ("{{ if .x }}yes{{ else }}no{{ end }}", {}, "no"),
        ("{{ if .x }}yes{{ end }}!", {}, "!"),
        ("{{ if .x }}{{ if .y }}both{{ else }}x{{ end }}{{ end }}", {"x": "1"}, "x"),
        ("{{ if .x }}{{ slice .x 1 }}{{ end }}", {}, ""),
        ("{{ .x }}", {"x": "<&>\u2028"}, '"\\u003c\\u0026\\u003e\\u2028"'),
        ("{{ .x }}", {"x": "{{ .y }}"}, '"{{ .y }}"'),
        # Go slices bytes, reads a leading zero as octal, and takes any letter in a name.
        ("{{ slice .x 3 }}", {"x": "éa"}, 'a"'),
        ("{{ slice .x 2 }}", {"x": "éa"}, '\ufffda"'),
        ("{{ slice .x 010 }}", {"x": "0123456789"}, '789"'),
        ("{{ slice .x 5 }}", {"x": "moo"}, ""),
        ("{{ .é }}{{ .x_1 }}", {"é": "a", "x_1": "b"}, '"a""b"'),
    ],
)
def test_rendering_matches_the_networks_renderer(
    template: str, inputs: dict[str, str], expected: str
) -> None:
    assert render(template, inputs) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ toJson .x }}",
        "{{ js .x }}",
        "{{.x | js}}",
        "{{ end }}",
        "{{ if .x }}",
        "{{ else }}",
        "{{ slice .absent 1 }}",
        "{{",
        # What Go refuses although Python's own rules would take it.
        "{{ slice .x 4 }}",
        "{{ slice .x 08 }}",
        "{{ slice .x \u0661 }}",
        "{{ if .absent }}{{ slice .x 09 }}{{ end }}",
        "{{ if .x }}a{{ else }}b{{ else }}c{{ end }}",
        "{{ .9 }}",
        "{{ .1x }}",
        "{{ if .9 }}{{ end }}",
        "{{ .x² }}",
    ],
)
def test_unsupported_template_syntax_is_an_error(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, {"x": "1"})


@given(st.text())
def test_any_text_survives_our_template_unchanged(text: str) -> None:
    text = text.encode(errors="replace").decode()
    assert json.loads(render(IDIOM, {"x": text})) == [f"X={text}"]
    assert json.loads(marshal(text)) == text
