"""What clients send."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from common.contracts import Input
from common.contracts.monitoring import MetricName, ModelId, parse_time
from realtime.cursor import Cursor


def _moment(since: Any) -> datetime | Cursor | None:
    if since is None:
        return None
    text = since if isinstance(since, str) else ""
    return Cursor.parse(text) if text.startswith("c1") else parse_time(text)


class Subscription(Input):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    model_id: ModelId
    metrics: Annotated[list[MetricName], Field(min_length=1, max_length=64)] | None = None
    since: Annotated[datetime | Cursor | None, PlainValidator(_moment)] = None
    cursor: bool = False


class Unsubscription(Input):
    model_id: ModelId
