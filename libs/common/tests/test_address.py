import re
import string
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.contracts.address import ID, Address, model_id_of, parse
from common.contracts.alerts import AlertsRequest, NewRule
from common.contracts.benchmarking import BenchmarkRequest, RunsRequest
from common.contracts.generation import GenerateRequest
from common.contracts.monitoring import MonitorRequest
from common.contracts.reading import SamplesDeletion, SamplesRequest
from common.contracts.recording import Record
from common.errors import InvalidModel


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", Address("gpt2")),
        ("openai/whisper-tiny", Address("openai/whisper-tiny")),
        ("https://huggingface.co/openai/whisper-tiny", Address("openai/whisper-tiny")),
        ("https://huggingface.co/openai/whisper-tiny/", Address("openai/whisper-tiny")),
        ("HTTPS://HuggingFace.co/gpt2", Address("gpt2")),
        ("https://hf.co:443/gpt2", Address("gpt2")),
        ("https://huggingface.co/a/b/tree/v1.0", Address("a/b", "v1.0")),
        ("https://huggingface.co/a/b/tree/refs%2Fpr%2F7", Address("a/b", "refs/pr/7")),
        ("https://huggingface.co/gpt2/tree/main", Address("gpt2", "main")),
        ("gpt2/tree/main", Address("gpt2", "main")),
        ("a/b/tree/refs%2Fpr%2F7", Address("a/b", "refs/pr/7")),
        ("https://huggingface.co/a/b/tree/refs/pr/7", Address("a/b", "refs/pr/7")),
        (" gpt2", Address("gpt2")),
        ("\u00a0gpt2/\u3000", Address("gpt2")),
        ("https://huggingface.co//a//b//", Address("a/b")),
        ("https://huggingface.co/a/b/tree/main/", Address("a/b")),
        ("a/b/tree/v1/", Address("a/b", "v1")),
        ("https://huggingface.co/a/b?library=transformers", Address("a/b")),
        ("https://huggingface.co/a/b?x=http://evil/c/d", Address("a/b")),
        ("https://huggingface.co/a/b/tree/v1/#usage", Address("a/b", "v1")),
        ("https://huggingface.co/a/tree", Address("a/tree")),
        ("https://huggingface.co/a/tree/tree/main", Address("a/tree")),
        ("https://huggingface.co/a/tree/tree", Address("a", "tree")),
        ("https://huggingface.co/a/b\n", Address("a/b")),
    ],
)
def test_every_form_of_a_models_address_is_accepted(text: str, expected: Address) -> None:
    assert parse(text) == expected


def test_a_separate_revision_takes_precedence_over_the_one_in_the_address() -> None:
    assert parse("https://hf.co/a/b/tree/v1", "v2") == Address("a/b", "v2")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("https://huggingface.co/spaces/acme/demo", "a Space"),
        ("https://huggingface.co/collections/acme/frogs-123", "a collection"),
        ("datasets/squad", "a dataset"),
        ("https://huggingface.co/a/b/blob/main/config.json", "a file"),
        ("https://huggingface.co/gpt2/resolve/main/config.json", "a file"),
        ("https://huggingface.co/a/b/discussions/3", "a discussion"),
        ("datasets/squad/tree/main", "a dataset"),
    ],
)
def test_the_address_of_another_kind_of_hub_page_is_named_in_the_error(
    text: str, named: str
) -> None:
    with pytest.raises(InvalidModel, match=f"the address of {named}"):
        parse(text)


# Addresses that servers of this kind have been tricked into fetching.
HOSTILE = [
    "http://169.254.169.254/",
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/a/b",
    "http://huggingface.co/gpt2",
    "https://huggingface.co@evil/a/b",
    "https://huggingface.co@evil.com/a/b",
    "https://user:secret@huggingface.co/a/b",
    "https://huggingface.co.evil/a/b",
    "https://evil.huggingface.co/a/b",
    "https://huggingface.co\\@evil/a/b",
    "https://huggingface.co\\.evil/a/b",
    "https://huggingface.co:22/a/b",
    "https://huggingface.co:/a/b",
    "https://[::ffff:169.254.169.254]/a/b",
    "https://[64:ff9b::a9fe:a9fe]/a/b",
    "https://[huggingface.co]/a/b",
    "https://2852039166/a/b",
    "https://0xa9fea9fe/a/b",
    "file:///etc/passwd",
    "file://huggingface.co/a/b",
    "gopher://huggingface.co/a/b",
    "javascript:alert(1)",
    "https:huggingface.co/a/b",
    "//huggingface.co/a/b",
    "https://huggingface。co/a/b",
    "https://huggingface%2eco/a/b",
    "https://hugging\nface.co/a/b",
    "https://huggingface.co/a/b\r\nHost: evil",
    "https://huggingface.co/a/b/../../c",
    "https://huggingface.co/../../etc/passwd",
    "https://huggingface.co/a/%2e%2e",
    "https://huggingface.co/a/b%00",
    "https://huggingface.co/a/b/tree/../../c",
    "https://huggingface.co/a/b/tree/main/onnx",
    "https://huggingface.co/a/b/blob/main/config.json",
    "https://huggingface.co/datasets/squad",
    "https://huggingface.co/",
    "https://huggingface.co/?/a/b",
    "https://huggingface.co#/a/b",
    "https://huggingface.co/..",
    "https://huggingface.co/docs/hub",
    "https://huggingface.co/models?search=gpt2",
    "//a/b",
    "/a/b",
    "a//b",
    "https://huggingface.co",
    "huggingface.co/gpt2",
    "a/b/c",
    "../../etc/passwd",
    "a--b/c",
    "foo.git",
    "{{7*7}}",
    "$(id)",
    "`id`",
    'a"b/c',
    "ａ/ｂ",  # noqa: RUF001  (full width)
    "а/b",  # noqa: RUF001  (Cyrillic)
    "a b/c",
    "a/" + "b" * 97,
    "",
    "-",
    ".",
    "..",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_an_address_that_is_not_a_models_is_rejected(text: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        parse(text)
    assert (caught.value.code, caught.value.status) == (1001, 400)
    # The error does not repeat the submitted text, which could be harmful where it is displayed.
    rest = text.removeprefix("https://huggingface.co").strip("/")
    assert len(rest) < 4 or rest not in caught.value.message


@pytest.mark.parametrize(
    "revision",
    ["../main", "a..b", "-x", "a b", "a\n", "x.lock", "a//b", "a/", "é", "a" * 200, "~1"],
)
def test_a_revision_must_be_a_valid_git_name(revision: str) -> None:
    with pytest.raises(InvalidModel, match="revision"):
        parse("gpt2", revision)


PIECES = [
    *("https://", "http://", "huggingface.co", "hf.co", "/", "\\", "@", ":", "..", ".", "%2f"),
    *("tree", "main", "a", "b-c", "?", "#", "%", "[", "]", "evil.com", "--", ".git", "\n", "\x00"),
]


@given(
    st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)),
    st.none() | st.text(),
)
@example("https://huggingface.co/a/b/tree/main", None)
def test_accepted_addresses_contain_only_harmless_characters(
    text: str, revision: str | None
) -> None:
    try:
        address = parse(text, revision)
    except InvalidModel:
        return
    allowed = set(string.ascii_letters + string.digits + "._-/")
    assert set(address.id + address.revision) <= allowed
    assert re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", address.id, re.ASCII)
    for part in (*address.id.split("/"), *address.revision.split("/")):
        assert part.strip(".") == part != ""
        assert ".." not in part
    assert address.id in text


ADDRESSES = st.builds(
    lambda blank, site, segments, end: blank + site + "/".join(segments) + end,
    st.sampled_from(["", " ", "\u00a0", "\n"]),
    st.sampled_from(["", "https://huggingface.co/", "https://HF.co:443//", "http://hf.co/", "/"]),
    st.lists(
        st.sampled_from(
            ["a", "b.c", "tree", "main", "v1", "a%2Fb", "", "..", "docs", "x.git", "-"]
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["", "/", "//", "?x=/y", "#z", " ", "\r\n", "\u3000"]),
)
NAMED: list[tuple[Any, dict[str, Any]]] = [
    (Record, {"metrics": {"latency": 1.0}}),
    (NewRule, {"kind": "silence", "after": 60}),
    (MonitorRequest, {}),
    (SamplesRequest, {"metric": "latency"}),
    (SamplesDeletion, {}),
]


@settings(max_examples=400)
@given(ADDRESSES | st.text(max_size=60))
@example("https://huggingface.co/..")
@example("https://hf.co/a/b/tree/v1/?x")
@example("https://huggingface.co//a///b/#x")
@example("https://huggingface.co/docs/b")
@example("a/b/")
@example("a/tree/main")
@example("\u00a0a/b\n")
def test_every_door_reads_an_address_as_the_same_model(text: str) -> None:
    names = set()
    for model, rest in NAMED:
        try:
            names.add(model.model_validate({**rest, "modelId": text}).model_id)
        except ValidationError:
            continue
    assert len(names) <= 1
    assert names <= {AlertsRequest.model_validate({"modelId": text}).model_id}
    try:
        [generated, measured, listed] = (
            parse(GenerateRequest.model_validate({"modelUrl": text}).model_url),
            parse(BenchmarkRequest.model_validate({"modelId": text}).model_id),
            parse(RunsRequest.model_validate({"modelId": text}).model_id or ""),
        )
    except (InvalidModel, ValidationError):
        # What is no model to the Hub keeps its own name.
        assert names <= {text.strip()}
        return
    assert generated == measured == listed
    revision = "" if generated.revision == "main" else f"/tree/{generated.revision}"
    assert {name.replace("%2F", "/") for name in names} == {generated.id + revision}
    [name] = names
    assert (parse(name), model_id_of(name)) == (generated, name)


LONG = "https://huggingface.co/" + "o" * 60 + "/" + "n" * 60 + "/tree/" + "r" * 80


@pytest.mark.parametrize("text", [LONG + "?show=" + "x" * 60, LONG + "#" + "x" * 100])
def test_an_address_is_read_by_every_door_although_it_is_longer_than_a_name(text: str) -> None:
    assert 256 < len(text) <= 512
    test_every_door_reads_an_address_as_the_same_model.hypothesis.inner_test(text)
    for model, rest in NAMED:
        assert model.model_validate({**rest, "modelId": text}).model_id == LONG[23:]


@given(st.text("ab.-_/", max_size=8) | st.from_regex(r"[a-z._-]{90,99}/[a-z.-]{90,99}"))
def test_an_id_is_valid_by_the_hubs_own_rule(text: str) -> None:
    try:
        validate_repo_id(text)
    except HFValidationError:
        assert not ID.fullmatch(text)
    else:
        assert ID.fullmatch(text)
