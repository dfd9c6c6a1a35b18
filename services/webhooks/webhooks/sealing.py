"""Webhooks' secrets as stored in the database: encrypted if the operator has set keys."""

from collections.abc import Sequence

import structlog

from common.encryption import Encryption
from common.postgres import Database

log = structlog.get_logger()

# Prefix of every plain secret; an encrypted one never has it.
MARK = "whsec_"
PLAIN = f"""
select id, secret, former_secret from webhooks
where secret like '{MARK}%%' or former_secret like '{MARK}%%'
for update
"""  # noqa: S608  (a constant)


class Sealing:
    def __init__(self, encryption: Encryption) -> None:
        self.encryption = encryption

    def seal(self, secret: str, webhook: str) -> str:
        if not self.encryption.possible:
            return secret
        return self.encryption.encrypt(secret, webhook).decode()

    def open(self, stored: Sequence[str], webhook: str) -> list[str]:
        """Decrypt the secrets; omit those whose key is no longer configured."""
        secrets = []
        for text in stored:
            plain = text if text.startswith(MARK) else None
            plain = plain or self.encryption.decrypt(text.encode(), webhook)
            if plain is None:
                log.error("webhook secret cannot be decrypted", webhook=webhook)
            else:
                secrets.append(plain)
        return secrets

    async def seal_stored(self, database: Database) -> None:
        """Encrypt the secrets that were stored before encryption keys were configured."""
        if not self.encryption.possible:
            return
        async with database.connection() as connection:
            rows = await (await connection.execute(PLAIN.encode())).fetchall()
            for id, *secrets in rows:
                sealed = [
                    self.seal(secret, id) if secret and secret.startswith(MARK) else secret
                    for secret in secrets
                ]
                await connection.execute(
                    "update webhooks set secret = %s, former_secret = %s where id = %s",
                    [*sealed, id],
                )
