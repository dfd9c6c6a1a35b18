"""Resources computed from a benchmark run of the model, rather than estimated.

    peak    base + slope x batch: the line through the peaks that were measured. The slope is
            that of sequences as long as those measured; for the module's longest inputs it is
            taken in proportion, squared where attention writes out its matrix.
    vram    peak x 1.2 + 640 MiB (the CUDA context, which the allocator does not count)
    memory  on a processor peak x 1.2: the process as a whole was measured

Only the caller's own latest successful run counts: of the same commit, on the kind of device and
in the dtype that the module uses. Runs of other accounts are ignored, so that no account can
change the modules of another.
"""

import math
import re
import time
from dataclasses import replace

from common.bus import Bus
from common.contracts.benchmarking import PROFILE, Profile, ProfileRequest
from common.contracts.generation import Check, GenerateOptions, Measured
from common.errors import NoResponders, ServiceError
from generator.resources import CUDA_CONTEXT_MIB, Resources, enough, rounded_up
from generator.snapshot import Snapshot
from models.dtypes import to_mib
from models.sizes import HEADROOM

# The same bound as in GenerateOptions.
MAX_BATCH_SIZE = 1024
# Pause in seconds before a benchmarker that timed out is called again.
RETRY_PAUSE_S = 5.0


class Measurements:
    """The benchmarker's measurements; none without a bus."""

    def __init__(self, bus: Bus | None = None) -> None:
        self.bus = bus
        self._rest_until = 0.0

    async def find(self, snapshot: Snapshot, needs: Resources) -> Profile | None:
        """Return the caller's profile, empty if never measured; None if it cannot be fetched."""
        if self.bus is None or time.monotonic() < self._rest_until:
            return None
        request = ProfileRequest(
            model_id=snapshot.id,
            commit=snapshot.commit,
            device="cuda" if needs.gpu else "cpu",
            dtype=needs.dtype,
        )
        try:
            return await self.bus.call(PROFILE, request)
        except NoResponders:
            return None  # fails at once, so the next call costs nothing
        except ServiceError:
            self._rest_until = time.monotonic() + RETRY_PAUSE_S
            return None


def apply(
    needs: Resources,
    profile: Profile | None,
    options: GenerateOptions,
    *,
    max_vram_mib: int,
    max_host_memory_mib: int,
) -> tuple[Resources, list[Check], str]:
    """Return the resources, measured if possible, new checks of them, and their source in words."""
    if profile is None:
        return needs, [], "the benchmarker is unavailable: the figures are estimates"
    if profile.run_id is None or profile.base_memory is None or profile.batch_size is None:
        where = f"on a {'GPU' if needs.gpu else 'CPU'} in {needs.dtype}"
        why = f"this account has not measured this commit {where}: the figures are estimates"
        return needs, [], why
    each = (profile.memory_per_sample or 0.0) * _stretch(needs, profile)
    available = max_vram_mib - CUDA_CONTEXT_MIB if needs.gpu else max_host_memory_mib
    fits = (available / HEADROOM - profile.base_memory) / each if each else math.inf
    if fits < (options.batch_size or 1):
        return needs, [], "the measured memory exceeds the device: the figures are estimates"
    batch = options.batch_size or int(min(profile.batch_size, MAX_BATCH_SIZE, fits))
    peak = rounded_up((profile.base_memory + each * batch) * HEADROOM)
    measured = _provenance(profile)
    if needs.gpu:
        measured_needs = replace(needs, vram=peak + CUDA_CONTEXT_MIB, vram_source="measured")
        checks = []
    else:
        vram_source = needs.vram_source if options.gpu is False else "measured"
        memory = peak if options.memory is None else to_mib(options.memory)
        measured_needs = replace(needs, memory=memory, vram_source=vram_source)
        if options.memory is None:
            measured_needs = replace(measured_needs, memory_source="measured")
        checks = [enough(memory, peak)]
    source = f"memory and batch size follow from run {measured.run} on {measured.machine}"
    return replace(measured_needs, batch_size=batch, measured=measured), checks, source


def _stretch(needs: Resources, profile: Profile) -> float:
    """Return the factor by which memory grows from a measured input to the module's longest."""
    longer = max(needs.max_tokens / profile.tokens, 1.0) if profile.tokens else 1.0
    eager = "eager" in (profile.attention, needs.attention)
    return longer**2 if eager else longer


def _provenance(profile: Profile) -> Measured:
    machine = re.sub(r"[^A-Za-z0-9 ().@_/+-]+", " ", profile.machine or "").strip()[:80]
    return Measured.model_validate(
        {
            **profile.model_dump(include={"device", "dtype", "batch_size", "tokens"}),
            "run": profile.run_id,
            "at": profile.measured_at,
            "machine": machine or "a machine without a name",
            "peak_mib": round(profile.peak_memory or 0.0, 1),
        }
    )
