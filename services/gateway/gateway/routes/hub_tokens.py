"""Routes of an account's own Hub token."""

from gateway.endpoint import MAX_SMALL_BODY_BYTES, Call, Route
from gateway.hub_tokens import HubTokens, NewHubToken, StoredHubToken


class HubTokenRoutes:
    """Routes that store, test and delete an account's Hub token."""

    tag = "Accounts and keys"

    def __init__(self, hub_tokens: HubTokens) -> None:
        self.hub_tokens = hub_tokens

    # Each question to the Hub counts as a generation, which also asks the Hub.
    @Route(
        "PUT",
        "/account/hub-token",
        summary="Store a Hub token",
        allows="account",
        limits=("api", "generate"),
        body=NewHubToken,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=StoredHubToken,
        errors=(502,),
    )
    async def store_hub_token(self, call: Call, body: NewHubToken) -> StoredHubToken:
        """Store a Hub token, to generate modules for private models and to benchmark them.

        The Hub is asked for the token's owner first; a token that it does not accept is refused.
        The token is stored encrypted, never shown, used only for this account's private and gated
        models, and replaces the previous one.
        """
        return await self.hub_tokens.store(call.account, body)

    @Route(
        "POST",
        "/account/hub-token/test",
        summary="Test the Hub token",
        allows="account",
        limits=("api", "generate"),
        reply=StoredHubToken,
        errors=(404, 422, 502),
    )
    async def check_hub_token(self, call: Call, _: None) -> StoredHubToken:
        """Ask the Hub whether it still accepts the account's token: 422 if it does not."""
        return await self.hub_tokens.test(call.account)

    @Route(
        "DELETE",
        "/account/hub-token",
        summary="Delete the Hub token",
        allows="account",
        status=204,
        errors=(404,),
    )
    async def delete_hub_token(self, call: Call, _: None) -> None:
        """Delete the token; runs that have not yet fetched a model with it fail."""
        await self.hub_tokens.delete(call.account)
