"""Texts that are encrypted in the database."""

import orjson
import pytest
from cryptography.fernet import Fernet

from common.encryption import Encryption

KEY = Fernet.generate_key()


@pytest.mark.parametrize(
    "content", [{"owner": "a", "text": "b"}, ["a", "b", "newer"], 7, "a", None, b"no JSON"]
)
def test_a_text_in_the_form_of_another_version_is_not_read(content: object) -> None:
    plain = content if isinstance(content, bytes) else orjson.dumps(content)
    encryption = Encryption([KEY.decode()])
    assert encryption.decrypt(Fernet(KEY).encrypt(plain), "a") is None
    assert encryption.decrypt(encryption.encrypt("b", "a"), "a") == "b"
