"""Measured profiles of models, for the generator."""

from typing import Any

from psycopg.rows import dict_row

from common.contracts.benchmarking import Profile, ProfileRequest
from common.contracts.figures import Setup
from common.postgres import Database


async def find(database: Database, account: str, request: ProfileRequest) -> Profile:
    """Return a model's profile at a commit, from the account's latest successful run of it.

    A run on a GPU takes precedence.
    """
    async with (
        database.connection() as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        await cursor.execute(
            "select id, setup, results, analysis, finished_at at time zone 'UTC' as at from runs"
            " where account = %(account)s and model_id = %(model)s and commit = %(commit)s"
            " and state = 'succeeded' and analysis->>'optimal_batch_size' is not null"
            " and coalesce(setup->'machine'->>'device' = %(device)s, true)"
            " and coalesce(setup->>'dtype' = %(dtype)s, true)"
            " order by worker_class = 'gpu' desc, finished_at desc limit 1",
            {
                "account": account,
                "model": request.model_id,
                "commit": request.commit,
                "device": request.device,
                "dtype": request.dtype,
            },
        )
        row = await cursor.fetchone()
    return _profile(row) if row else Profile()


def _profile(row: dict[str, Any]) -> Profile:
    """Read the profile without validating the whole row, since every generation needs one."""
    setup, analysis = Setup.model_validate(row["setup"]), row["analysis"]
    size = analysis["optimal_batch_size"]
    peak = row["results"]["memory_usage"][row["results"]["batchSizes"].index(size)]
    # A single size yields no line: take the slope from the loaded model to its peak.
    base, each = analysis["memory"]["base"], analysis["memory"]["perSample"]
    if base is None and peak is not None:
        base, each = setup.base, max(peak - setup.base, 0.0) / size
    if base is not None:  # a module's process also holds memory that its C library has not returned
        base += analysis["memory"].get("kept") or 0.0
    return Profile(
        run_id=row["id"],
        device=setup.machine.device,
        machine=setup.machine.name,
        dtype=setup.dtype,
        attention=setup.attention,
        tokens=setup.tokens and setup.tokens + (setup.new_tokens or 0),
        batch_size=size,
        peak_memory=peak,
        base_memory=base,
        memory_per_sample=each,
        measured_at=f"{row['at'].isoformat()}Z",
    )
