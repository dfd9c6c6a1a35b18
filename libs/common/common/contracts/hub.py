"""Accounts' own Hub tokens, stored by the gateway and used only for their requests and runs."""

import re

from pydantic import Field

from common.contracts import Message, Rpc

# Hosts to which the public Hub redirects large files; they never get a token.
STORAGE_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.hf\.co")


class HubTokenRequest(Message):
    account: str


class HubToken(Message):
    """An account's Hub token, if it has one; sent only in replies, which nothing stores."""

    token: str | None = Field(None, repr=False)


class HubTokenCheck(Message):
    token: str = Field(repr=False)


class HubIdentity(Message):
    """The Hub user that a token belongs to."""

    user: str = Field(description="The Hub's name of the user whose token it is.")
    role: str = Field(description="Role of the token on the Hub, such as `read` or `fineGrained`.")


HUB_TOKEN = Rpc("rpc.gateway.hub_token", HubTokenRequest, HubToken, timeout=2.0, repeatable=True)
# Refused with InvalidRequest for a token that the Hub does not accept.
CHECK_HUB_TOKEN = Rpc(
    "rpc.generator.check_hub_token", HubTokenCheck, HubIdentity, timeout=14.0, repeatable=True
)
