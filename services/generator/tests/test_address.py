import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import InvalidModel
from generator.address import Address, parse


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
        (" gpt2", Address("gpt2")),
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
    "https://huggingface.co/a/b?x=http://evil",
    "https://huggingface.co/a/b?",
    "https://huggingface.co/a/b#c",
    "https://huggingface.co/a/b/tree/../../c",
    "https://huggingface.co/a/b/tree/main/onnx",
    "https://huggingface.co/a/b/blob/main/config.json",
    "https://huggingface.co/datasets/squad",
    "https://huggingface.co/",
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
