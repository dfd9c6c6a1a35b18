"""Password recovery by a single-use link, mailed or printed by an operator's command.

A request is a row and nothing else, so its answer is the same, and as fast, for an
address without an account. The replica that mails a link creates it from the row;
without SMTP, an operator creates one: `python -m gateway.recovery you@example.com`.
"""

import asyncio
import dataclasses
import hashlib
import secrets
import smtplib
import sys
from email.message import EmailMessage
from typing import Annotated
from urllib.parse import unquote, urlsplit

import structlog
from pydantic import Field, StringConstraints

from common import context
from common.bus import Bus
from common.contracts import Input
from common.contracts.webhooks import (
    CHANGE_WEBHOOK,
    LIST_WEBHOOKS,
    WebhookChangeRequest,
    WebhooksRequest,
)
from common.errors import InvalidRequest, ServiceError
from common.postgres import Connection, Database
from gateway import audit, commands
from gateway.account_fields import EmailAddress, NewPassword
from gateway.passwords import Passwords
from gateway.sessions import Sessions, store_password
from gateway.settings import GatewaySettings

log = structlog.get_logger()

LINK_LIFETIME_S = 3600
# Max valid links of an account; further requests are dropped, so that no mailbox can be flooded.
MAX_LINKS = 3
MAIL_INTERVAL_S = 2.0
SMTP_TIMEOUT_S = 20.0
TOKEN_PREFIX = "lmg_reset_"  # noqa: S105  (the start of a token, not one)

REQUEST = f"""
insert into reset_requests (account_id)
select id from accounts where lower(email) = lower(%s)
    and (select count(*) from resets where account_id = accounts.id and expires_at > now())
        < {MAX_LINKS}
on conflict (account_id) do nothing
"""  # noqa: S608  (a constant)
NEXT = """
select account_id, email from reset_requests join accounts on accounts.id = account_id
where due_at <= now() order by due_at limit 1 for update of reset_requests skip locked
"""
MAIL = """Somebody, you perhaps, asked for a new password for this address.

Choose one here within an hour; the link works once:

    {link}

If it was not you, ignore this mail: nothing has changed. The first link that is used for an
address proves who owns it. It revokes the API keys and turns off the webhooks
that were made before.
"""


class ResetRequest(Input):
    email: EmailAddress = Field(
        description="The account's e-mail address.", examples=["you@example.com"]
    )


class Reset(Input):
    token: Annotated[str, StringConstraints(min_length=20, max_length=100)] = Field(
        description="The token of the link in the mail.",
        examples=["lmg_reset_nUQ6DWXsZhh2xVtoTBrJpnTVbVEZ3Z1g0cQxO3mA8fM"],
    )
    new: NewPassword = Field(
        description="The password from now on; all sessions end.",
        examples=["staple a longer battery"],
    )


class Recovery:
    """Password recovery: requests for reset links, and password resets by them.

    Args:
        smtp_url: the server that mails links; empty: links are not mailed.
        smtp_from: the mails' sender.
        public_url: where the page of a link is.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        passwords: Passwords,
        sessions: Sessions,
        *,
        smtp_url: str,
        smtp_from: str,
        public_url: str,
    ) -> None:
        self.database = database
        self.bus = bus
        self.passwords = passwords
        self.sessions = sessions
        self.smtp_url = smtp_url
        self.smtp_from = smtp_from
        self.public_url = public_url

    async def request(self, email: str) -> None:
        """Queue a link to mail; do the same work for an address without an account."""
        async with self.database.connection() as connection:
            await connection.execute(REQUEST.encode(), [email])
            await audit.record(connection, "reset_requested", None)

    async def reset(self, body: Reset) -> None:
        """Set a new password by a link's token, and end all access through the old one.

        An address that was never confirmed may have been registered by somebody else. Its
        first link proves who owns it, so all that gives that person access to the account ends as
        well: API keys, the Hub token, and webhooks. It leaves the second factor on, which needs a
        confirmed address where links are mailed.

        Raises:
            InvalidRequest: the token is unknown, used or expired, or the password is too common.
            Unavailable: webhooks cannot be turned off now; the link still works.
        """
        hashed = hashlib.sha256(body.token.encode()).digest()
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id, email, confirmed_at is null"
                " from resets join accounts on accounts.id = account_id"
                " where hash = %s and expires_at > now()",
                [hashed],
            )
            row = await cursor.fetchone()
        if row is None:
            raise _dead_link()
        account, email, is_first = row
        await self.passwords.refuse_common("new", body.new, email)
        password = await self.passwords.hash(body.new)
        if is_first:
            await self._turn_off_webhooks(account)
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "delete from resets where hash = %s and expires_at > now()", [hashed]
            )
            if not cursor.rowcount:  # used meanwhile
                raise _dead_link()
            await connection.execute("delete from resets where account_id = %s", [account])
            revoked = await _confirm(connection, account)
            ended = await store_password(connection, account, password)
            await audit.record(
                connection, "password_reset", account, ended=len(ended), revoked=len(revoked)
            )
        await self.sessions.publish_ends(account, [*ended, *revoked])
        if is_first:
            # Again, for one that was turned on while the key for it still worked.
            try:
                await self._turn_off_webhooks(account)
            except ServiceError as error:
                log.warning("webhooks not turned off", account=account, error=str(error))

    async def _turn_off_webhooks(self, account: str) -> None:
        """Turn off the account's webhooks, which would post its events to their creator."""
        current = context.current.get()
        context.current.set(dataclasses.replace(current, account=account))
        try:
            for webhook in (await self.bus.call(LIST_WEBHOOKS, WebhooksRequest())).webhooks:
                if webhook.enabled:
                    change = WebhookChangeRequest(id=webhook.id, changes={"enabled": False})
                    await self.bus.call(CHANGE_WEBHOOK, change)
        finally:
            context.current.set(current)

    async def keep_mailing(self) -> None:
        """Mail due links until canceled; without SMTP, mail none."""
        while True:
            try:
                mailed = bool(self.smtp_url) and await self.mail_next()
            except Exception as error:  # noqa: BLE001  (one odd address must not end all mailing)
                log.warning("mail not sent", error=str(error))
                mailed = False
            if not mailed:
                await asyncio.sleep(MAIL_INTERVAL_S)

    async def mail_next(self) -> bool:
        """Mail one link, if one is due; failed mails are retried at growing intervals."""
        async with self.database.connection() as connection:
            row = await (await connection.execute(NEXT.encode())).fetchone()
            if row is None:
                return False
            account, email = row
            # Committed before the mail is sent: one that cannot be sent is tried again later.
            await connection.execute(
                "update reset_requests set due_at = now() + attempts * interval '1 minute',"
                " attempts = attempts + 1 where account_id = %s",
                [account],
            )
        async with self.database.connection() as connection:
            link = await make_link(connection, account, self.public_url)
            await asyncio.to_thread(self._send, email, link)
            await connection.execute("delete from reset_requests where account_id = %s", [account])
        return True

    def _send(self, email: str, link: str) -> None:
        mail = EmailMessage()
        mail["Subject"] = "A new password for the Lilypad Model Generator"
        mail["From"] = self.smtp_from
        mail["To"] = email
        # Not wrapped: some mail readers take the first line of a link for the whole link.
        mail.set_content(MAIL.format(link=link), cte="7bit")
        server = urlsplit(self.smtp_url)
        connect = smtplib.SMTP_SSL if server.scheme == "smtps" else smtplib.SMTP
        port = server.port or (465 if server.scheme == "smtps" else 587)
        with connect(server.hostname or "", port, timeout=SMTP_TIMEOUT_S) as smtp:
            if server.scheme == "smtp+starttls":
                smtp.starttls()
            if server.username:
                smtp.login(unquote(server.username), unquote(server.password or ""))
            # Not parsed as a header: a comma is allowed in an address.
            smtp.send_message(mail, to_addrs=[email])


async def make_link(connection: Connection, account: str, public_url: str) -> str:
    """Store a new token's hash; return the URL of the page that accepts the token."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    await connection.execute(
        "insert into resets (hash, account_id, expires_at)"
        " values (%s, %s, now() + %s * interval '1 second')",
        [hashlib.sha256(token.encode()).digest(), account, LINK_LIFETIME_S],
    )
    await audit.record(connection, "reset_link_made", account)
    return f"{public_url}/reset?token={token}"


async def _confirm(connection: Connection, account: str) -> list[str]:
    """Mark the address as confirmed; the first time, also revoke the account's keys."""
    cursor = await connection.execute(
        "update accounts set confirmed_at = now() where id = %s and confirmed_at is null",
        [account],
    )
    if not cursor.rowcount:
        return []
    await connection.execute("delete from hub_tokens where account_id = %s", [account])
    cursor = await connection.execute(
        "update keys set revoked_at = now() where account_id = %s and revoked_at is null"
        " returning id",
        [account],
    )
    return [row[0] for row in await cursor.fetchall()]


def _dead_link() -> InvalidRequest:
    fault = "is unknown, used or expired; ask for a new link"
    return InvalidRequest(f"token: {fault}", fields=[{"path": "token", "message": fault}])


async def forget_old(connection: Connection) -> None:
    """Delete expired links, and requests without a link that are older than a day."""
    await connection.execute("delete from resets where expires_at < now()")
    await connection.execute(
        "delete from reset_requests where requested_at < now() - interval '1 day'"
    )


async def print_link(email: str) -> int:
    """Print a link for an operator to pass on; return the exit status."""
    settings = GatewaySettings.from_environment()
    async with commands.open_account(settings, email) as (connection, account):
        if account is None:
            sys.stderr.write("no account has this address\n")
            return 1
        link = await make_link(connection, account, settings.public_url)
    # Committed by now.
    sys.stdout.write(link + "\n")
    return 0


if __name__ == "__main__":
    commands.run("gateway.recovery", print_link)
