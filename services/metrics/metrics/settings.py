"""Settings of the metrics service."""

from pydantic import Field

from common.settings import ServiceSettings


class MetricsSettings(ServiceSettings):
    """Settings of the metrics service; `docs/reference/settings.md` lists them."""

    database_url: str
    # Age at which samples expire: more than the longest window.
    retention_days: int = Field(400, ge=366)
    # Age at which recovered alerts are deleted.
    alert_retention_days: int = Field(400, ge=1)
    # Max pairs of model and metric of one account. Each costs a little memory in every replica, and
    # a row for each of its days.
    max_series: int = Field(10_000, ge=1)
    # Max bytes that one account may store: a hundred million samples.
    max_stored_bytes: int = Field(10_000_000_000, ge=1)
    # Max late samples of one account that wait to be merged: under half a minute's work.
    max_staged_samples: int = Field(1_000_000, ge=1)
