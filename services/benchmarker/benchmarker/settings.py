"""What control and the worker need to know beside what every service does."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from common.jobs import ACK_WAIT
from common.settings import ServiceSettings


class ControlSettings(ServiceSettings):
    """Of `python -m benchmarker`."""

    database_url: str
    # Accepted runs per account within any hour.
    benchmarks_per_hour: Annotated[int, Field(ge=1)] = 5
    # Modules per account within any hour that are run before they are handed out.
    verifications_per_hour: Annotated[int, Field(ge=1)] = 20
    # Runs of one class that may wait; more are refused.
    most_waiting: Annotated[int, Field(ge=1)] = 100
    # Classes that exist even while no worker of theirs is up: GPU workers that
    # are started on demand, say. Comma separated.
    worker_classes: str = "cpu"
    # Silence after which a running job is given to the next worker, in seconds.
    ack_wait: Annotated[float, Field(gt=0)] = ACK_WAIT
    # How often lost messages and undelivered metrics are looked for, in seconds.
    sweep_interval: Annotated[float, Field(gt=0)] = 5.0
    # USD per hour of the machines, in place of the table's: what is really paid.
    cpu_price_per_hour: Annotated[float, Field(gt=0)] | None = None
    gpu_price_per_hour: Annotated[float, Field(gt=0)] | None = None


class WorkerSettings(ServiceSettings):
    """Of `python -m benchmarker.worker`; `hf_*` mean what they mean to huggingface_hub."""

    hf_endpoint: str = "https://huggingface.co"
    hf_token: SecretStr | None = None
    hf_home: Path | None = None
    ack_wait: Annotated[float, Field(gt=0)] = ACK_WAIT
    # Classes of job that it takes, comma separated, as far as its machine can.
    worker_takes: str = "cpu,gpu"
    # A run that takes longer is ended, in seconds.
    longest_run: Annotated[float, Field(gt=0)] = 3600.0
    # A module that is tried is ended after so many seconds, or its own timeout if that is less.
    longest_trial: Annotated[float, Field(gt=0)] = 600.0
    # Share of the machine's memory that a model may take.
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    # MiB that a model may take, where it is to be less than that.
    most_memory: Annotated[float, Field(gt=0)] | None = None
