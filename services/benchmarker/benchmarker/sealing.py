"""Secrets for one worker: all workers share a NATS user, and can read each other's replies.

A worker sends a public key with its request; X25519 and HKDF give both sides a key of AES-256-GCM.
"""

import base64

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
# Each secret has a key of its own, so that the nonce never repeats.
NONCE = bytes(12)


class Opener:
    """A private key, for the secrets of one delivery."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self._public = self._private.public_key().public_bytes_raw()
        self.key = base64.b64encode(self._public).decode()

    def open(self, sealed: str) -> str:
        """Return the text that was sealed for this key."""
        data = base64.b64decode(sealed)
        sender, encrypted = data[:KEY_BYTES], data[KEY_BYTES:]
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(sender))
        return _cipher(shared, sender + self._public).decrypt(NONCE, encrypted, None).decode()


def seal(text: str, key: str) -> str:
    """Encrypt a text for the worker with this public key."""
    public = base64.b64decode(key)
    private = X25519PrivateKey.generate()
    sender = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    encrypted = _cipher(shared, sender + public).encrypt(NONCE, text.encode(), None)
    return base64.b64encode(sender + encrypted).decode()


def _cipher(shared: bytes, parties: bytes) -> AESGCM:
    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"lilypad hub token" + parties)
    return AESGCM(derived.derive(shared))
