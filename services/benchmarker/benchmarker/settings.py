"""Settings of control and of the worker."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from common.jobs import ACK_WAIT_S
from common.settings import ServiceSettings


class ControlSettings(ServiceSettings):
    """Settings of `python -m benchmarker`."""

    database_url: str
    # Accepted runs per account within any hour.
    benchmarks_per_hour: Annotated[int, Field(ge=1)] = 5
    # Modules per account within any hour that are verified by running them once.
    verifications_per_hour: Annotated[int, Field(ge=1)] = 20
    # Runs of one class that may wait; more are refused.
    max_waiting: Annotated[int, Field(ge=1)] = 100
    # Runs that may wait of one account, or of all new accounts of one network address.
    max_waiting_per_account: Annotated[int, Field(ge=1)] = 5
    # Classes that exist even while no worker of theirs is present, such as GPU workers that are
    # started on demand. Comma separated.
    worker_classes: str = "cpu"
    # Silence after which a running job is given to the next worker.
    ack_wait_s: Annotated[float, Field(gt=0)] = ACK_WAIT_S
    # Pause between two sweeps for lost messages and undelivered metrics.
    sweep_interval_s: Annotated[float, Field(gt=0)] = 5.0
    # Ages at which ended runs, with their blocks, and tried modules are deleted; a repeated request
    # finds its run for a day.
    run_retention_days: Annotated[int, Field(ge=2)] = 400
    trial_retention_days: Annotated[int, Field(ge=2)] = 30
    # USD per hour of the machines, overriding the table's prices.
    cpu_price_per_hour: Annotated[float, Field(gt=0)] | None = None
    gpu_price_per_hour: Annotated[float, Field(gt=0)] | None = None


class WorkerSettings(ServiceSettings):
    """Settings of `python -m benchmarker.worker`; `hf_*` are variables of huggingface_hub."""

    hf_endpoint: str = "https://huggingface.co"
    hf_token: SecretStr | None = None
    hf_home: Path | None = None
    # Disk space that fetched models may take; None: a share of the free space.
    max_cache_bytes: Annotated[int, Field(ge=1)] | None = None
    ack_wait_s: Annotated[float, Field(gt=0)] = ACK_WAIT_S
    # Classes of job that the worker takes if its machine can, comma separated.
    worker_takes: str = "cpu,gpu"
    # Jobs after which the worker exits, and seconds without a job; None: never. For workers that
    # are started on demand.
    max_jobs: Annotated[int, Field(ge=1)] | None = None
    max_idle_s: Annotated[float, Field(gt=0)] | None = None
    # Duration after which a run is ended.
    max_run_s: Annotated[float, Field(gt=0)] = 3600.0
    # Duration after which a trial is ended, unless the module's own timeout is shorter.
    max_trial_s: Annotated[float, Field(gt=0)] = 600.0
    # Whether the worker exits at start if its machine cannot isolate models completely.
    require_isolation: bool = False
    # Share of the machine's memory that a model may take.
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    # Memory that a model may take, if less than the share.
    max_memory_mib: Annotated[float, Field(gt=0)] | None = None
