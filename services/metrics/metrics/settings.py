from pydantic import Field

from common.settings import ServiceSettings


class MetricsSettings(ServiceSettings):
    database_url: str
    # How long samples are kept, in days; more than the longest window that can be asked for.
    retention_days: int = Field(400, ge=366)
    # Pairs of model and metric that one account may record. Each costs a
    # little memory in every replica, and a row for each of its days.
    most_series: int = Field(10_000, ge=1)
