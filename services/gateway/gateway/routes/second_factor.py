"""Routes of an account's second factor."""

from gateway.accounts import Accounts
from gateway.endpoint import MAX_SMALL_BODY_BYTES, Call, Route
from gateway.second_factor import RecoveryCodes, TotpCode, TotpEnd, TotpSecret, TotpStart


class SecondFactorRoutes:
    """Routes that set up a second factor, switch it on, and switch it off."""

    tag = "Accounts and keys"

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts

    @Route(
        "POST",
        "/account/totp",
        summary="Set up a second factor",
        allows="account",
        body=TotpStart,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=TotpSecret,
        status=201,
        errors=(409,),
    )
    async def start_totp(self, call: Call, body: TotpStart) -> TotpSecret:
        """Create a secret for an authenticator app (TOTP); it takes effect once confirmed."""
        await self.accounts.check_password(
            call.account, "password", body.password, None, owes_code=False
        )
        email = (await self.accounts.get(call.account)).email
        return await self.accounts.second_factor.start(call.account, email)

    @Route(
        "POST",
        "/account/totp/confirm",
        summary="Switch the second factor on",
        allows="account",
        body=TotpCode,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=RecoveryCodes,
        errors=(409,),
    )
    async def confirm_totp(self, call: Call, body: TotpCode) -> RecoveryCodes:
        """Switch the second factor on with the app's first code; returns recovery codes, once.

        From then on a login needs a code: on the page, and with HTTP Basic in the header
        `X-Lilypad-Code`. Each code is accepted once. API keys stay as they are.
        """
        return await self.accounts.second_factor.confirm(call.account, body.code)

    @Route(
        "DELETE",
        "/account/totp",
        summary="End the second factor",
        allows="account",
        body=TotpEnd,
        code_in_body=True,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        status=204,
    )
    async def stop_totp(self, call: Call, body: TotpEnd) -> None:
        """Switch the second factor off; needs the password and a code, or a recovery code."""
        await self.accounts.check_password(
            call.account,
            "password",
            body.password,
            body.code,
            owes_code=call.owes_code,
        )
        await self.accounts.second_factor.stop(call.account)
