from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import hash_key, is_well_formed, make_key, shown_prefix


def test_a_new_key_is_well_formed_and_unique() -> None:
    keys = {make_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(is_well_formed(key) and len(key) == 45 for key in keys)


@given(st.integers(9, 44), st.sampled_from("0123456789abcXYZ"))
def test_one_mistyped_character_is_detected_without_a_database(place: int, character: str) -> None:
    key = make_key()
    mistyped = key[:place] + character + key[place + 1 :]
    assert is_well_formed(mistyped) == (mistyped == key)


@given(st.text())
def test_any_other_text_is_rejected_as_a_key(text: str) -> None:
    assert not is_well_formed(text)


def test_the_stored_hash_and_the_shown_prefix_do_not_reveal_the_key() -> None:
    key = make_key()
    assert key.encode() not in hash_key(key)
    assert len(shown_prefix(key)) == 15
