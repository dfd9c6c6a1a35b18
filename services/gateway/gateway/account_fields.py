"""Fields of accounts in requests and answers."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from common.contracts import Input, Message
from common.contracts.invisible import check_visible
from common.faults import Hint
from gateway.hub_tokens import StoredHubToken
from gateway.second_factor import Code

# Long enough to resist guessing, short enough to bound the work of hashing (OWASP ASVS 6.2).
NewPassword = Annotated[str, StringConstraints(min_length=8, max_length=256)]
Password = Annotated[str, StringConstraints(min_length=1, max_length=256)]
EmailAddress = Annotated[
    str,
    StringConstraints(
        # HTTP Basic ends the name at the first colon.
        pattern=r"^[^@:\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+\.[^@\s\x00-\x1f\x7f]+$",
        min_length=6,
        max_length=254,
    ),
    Hint('must be an e-mail address of at most 254 characters, such as "you@example.com"'),
]


OWN_CODE = Field(
    None,
    description="A code of the second factor, where it is on and the request brings none in its"
    " header.",
    examples=["123456"],
)


class NewAccount(Input):
    email: Annotated[EmailAddress, AfterValidator(check_visible)] = Field(
        description="Your e-mail address, which you log in with.", examples=["you@example.com"]
    )
    password: NewPassword = Field(
        description="Twelve characters or more are recommended; common passwords are refused.",
        examples=["correct horse battery"],
    )


class PasswordChange(Input):
    current: Password = Field(
        description="The current password.", examples=["correct horse battery"]
    )
    new: NewPassword = Field(
        description="The password from now on; all other sessions end.",
        examples=["staple a longer battery"],
    )
    code: Code | None = OWN_CODE


class AccountDeletion(Input):
    password: Password = Field(
        description="The account's password.", examples=["correct horse battery"]
    )
    code: Code | None = OWN_CODE


class Account(Message):
    id: str = Field(description="Id of the account.")
    email: str = Field(description="Its e-mail address.")


class AccountChange(Input):
    beta: bool = Field(
        description="Whether /v2/api answers without the header X-Lilypad-Beta.", examples=[True]
    )


class AccountFacts(Account):
    beta: bool = Field(description="Whether /v2/api answers without the header X-Lilypad-Beta.")
    totp: bool = Field(False, description="Whether logging in needs a code of an app as well.")
    hub_token: StoredHubToken | None = Field(
        None, description="The account's own token for the Hub, without it; null if none is stored."
    )
