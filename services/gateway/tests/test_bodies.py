import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.generation import GenerateRequest
from common.errors import InvalidRequest
from gateway import bodies

SECRET = "hunter2-secret"

HOSTILE = {
    "a key twice": b'{"modelUrl": "a", "modelUrl": "hunter2-secret"}',
    "a key twice, deep": b'{"modelUrl": "a", "options": {"gpu": true, "gpu": false}}',
    "NaN": b'{"modelUrl": NaN}',
    "infinity": b'{"modelUrl": "a", "options": {"batchSize": Infinity}}',
    "a number too large for a float": b'{"modelUrl": "a", "options": {"batchSize": 1e999}}',
    "2 to the 70th": b'{"modelUrl": "a", "options": {"batchSize": 1180591620717411303424}}',
    "a number of 5000 digits": b'{"modelUrl": ' + b"9" * 5000 + b"}",
    "NUL": b'{"modelUrl": "hunter2-secret\\u0000"}',
    "half a character": b'{"modelUrl": "hunter2-secret\\ud800"}',
    "half a character as key": b'{"modelUrl": "a", "\\ud800": 1}',
    "invalid UTF-8": b'{"modelUrl": "\xff\xfe"}',
    "40,000 levels": b'{"modelUrl": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "40,000 levels of objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "nothing": b"",
    "half of it": b'{"modelUrl": "hunter2-secret',
    "a list": b'["hunter2-secret"]',
    "a number": b"1",
    "a wrong type": b'{"modelUrl": {"password": "hunter2-secret"}}',
    "an unknown key": b'{"modelUrl": "a", "hunter3": "hunter2-secret"}',
    "UTF-16": '{"modelUrl": "a"}'.encode("utf-16"),
    "a byte-order mark": b'\xef\xbb\xbf{"modelUrl": "a"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_refused_and_not_quoted(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bodies.parse(body, GenerateRequest)
    assert (caught.value.code, caught.value.status) == (1003, 400)
    assert SECRET not in json.dumps(caught.value.to_wire())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (json.dumps({f"u{n}": 1 for n in range(257)}).encode(), "more than 256 keys"),
        (b"[" + b"1," * 200_001 + b"1]", "more than 200000 values"),
    ],
)
def test_a_body_with_too_many_keys_or_values_is_refused_before_it_is_parsed(
    body: bytes, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        bodies.check_form(body)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_refused_with_their_line_and_column(constant: str) -> None:
    body = f'{{"modelUrl": "NaN \\\\\\" NaN",\n "options": {{"batchSize": {constant}}}}}'
    with pytest.raises(InvalidRequest, match="line 2, column 27: NaN and Infinity") as caught:
        bodies.parse(body.encode(), GenerateRequest)
    assert (caught.value.details["line"], caught.value.details["column"]) == (2, 27)


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        ('{"modelUrl": "a",\n "modelUrl": "hunter2-secret"}', 2, 2),
        ('{"a": [{"b": "{\\"b\\","}, {"b": ","}], "c": {"b": 1},\n  "c": "b"}', 2, 3),
        ('{"b": {"\\u0061": 1, "x": ["a", "a"],\n"a": 2}}', 2, 1),
    ],
)
def test_a_duplicate_key_is_refused_with_its_line_and_column(
    body: str, line: int, column: int
) -> None:
    refusal = f"line {line}, column {column}: duplicate key"
    with pytest.raises(InvalidRequest, match=refusal) as caught:
        bodies.check_form(body.encode())
    assert (caught.value.details["line"], caught.value.details["column"]) == (line, column)
    assert "hunter2" not in str(caught.value.details) + caught.value.message


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        bodies.parse(b'{"modelUrl": "a", "options": {"batchsize": 4}}', GenerateRequest)
    assert caught.value.details["fields"][0]["path"] == "options.batchsize"


@given(st.binary())
def test_any_body_is_either_parsed_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        bodies.parse(body, GenerateRequest)


@given(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128
    )
)
def test_any_valid_text_is_parsed_unchanged(text: str) -> None:
    for ascii_only in (True, False):
        body = json.dumps({"modelUrl": "m", "revision": text}, ensure_ascii=ascii_only)
        assert bodies.parse(body.encode(), GenerateRequest).revision == text


async def test_a_body_that_grows_beyond_its_limit_is_refused_as_it_arrives() -> None:
    chunks_read = 0

    async def receive() -> dict[str, object]:
        nonlocal chunks_read
        chunks_read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    with pytest.raises(InvalidRequest) as caught:
        await bodies.read(receive, {}, 10_000)
    assert caught.value.status == 413
    assert chunks_read == 11


async def test_an_announced_size_beyond_the_limit_is_refused_unread() -> None:
    async def receive() -> dict[str, object]:
        raise AssertionError("read")

    with pytest.raises(InvalidRequest) as caught:
        await bodies.read(receive, {b"content-length": b"10001"}, 10_000)
    assert caught.value.status == 413


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"\xb2", b"9" * 5000])
async def test_an_invalid_content_length_does_not_crash(length: bytes) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    with contextlib.suppress(InvalidRequest):
        assert await bodies.read(receive, {b"content-length": length}, 10) == b"{}"


@pytest.mark.parametrize(
    ("written", "read"), [("8 GB", "8GB"), ("16Gi", "16Gi"), ("4 MiB", "4MiB")]
)
def test_a_memory_size_may_have_a_space_before_its_unit(written: str, read: str) -> None:
    body = json.dumps({"modelUrl": "a", "options": {"memory": written}}).encode()
    assert bodies.parse(body, GenerateRequest).options.memory == read
