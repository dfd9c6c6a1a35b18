"""The bodies of the events that clients send."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from common.contracts import Input
from common.contracts.recording import MetricName, ModelId
from common.contracts.timestamps import parse_time
from realtime.cursor import Cursor


def _parse_since(since: Any) -> datetime | Cursor | None:
    if since is None:
        return None
    text = since if isinstance(since, str) else ""
    return Cursor.parse(text) if text.startswith("c1") else parse_time(text)


class Subscribe(Input):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    model_id: ModelId = Field(examples=["openai/gpt2"])
    metrics: Annotated[list[MetricName], Field(min_length=1, max_length=64)] | None = Field(
        None, examples=[["throughput", "latency"]]
    )
    since: Annotated[datetime | Cursor | None, PlainValidator(_parse_since)] = None
    cursor: bool = False


class Unsubscribe(Input):
    model_id: ModelId = Field(examples=["openai/gpt2"])
