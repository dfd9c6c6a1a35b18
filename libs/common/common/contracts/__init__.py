"""Every message that crosses the bus, written once.

A contract ties a subject to the types that travel on it. The first token of
the subject says how it is delivered:

    rpc.<service>.<verb>                            one service replies, the caller waits
    job.<service>.<verb>.<class>                    one worker runs it, queued until acknowledged
    event.<noun>.<past tense>.<account>.<id>        every subscribed service receives it

Names are snake_case in Python and camelCase on the wire, so that a body may
pass from HTTP to the bus and back unchanged.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Message(BaseModel):
    """A message between services; fields are only ever added.

    Unknown fields are ignored, so an older service can read a newer message.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # fields may start with model_
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )


class Input(Message):
    """A request body or query of the public API.

    The gateway refuses unknown keys by name, so that a typing mistake is not
    silently a default; on the bus they are ignored as in any message. Values
    are strict: `"4"` is not a number.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)
Body = TypeVar("Body", bound=Message)


@dataclass(frozen=True)
class Rpc(Generic[Request, Reply]):
    """A request to one service; `timeout` is how long the caller waits, in seconds.

    One that is `repeatable` has the same effect if it is handled twice, so that a call whose reply
    is late is sent again, to any replica and then to every replica.
    """

    subject: str
    request: type[Request]
    reply: type[Reply]
    timeout: float = 5.0
    repeatable: bool = False

    @property
    def service(self) -> str:
        return self.subject.split(".")[1]


@dataclass(frozen=True)
class Job(Generic[Body]):
    """Long work: `job.<service>.<verb>`, published with the worker's class as the last token."""

    subject: str
    body: type[Body]


@dataclass(frozen=True)
class Event(Generic[Body]):
    """An event: `event.<noun>.<past>`, published with the account and an id as the last tokens."""

    subject: str
    body: type[Body]
