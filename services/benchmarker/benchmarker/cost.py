"""Price of a machine with its source, and the resulting cost of an inference.

Answers keep throughput and price apart, so that a reader can insert another price:
cost = price per hour / 3600 / throughput / utilisation.
"""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.figures import Machine, Price


@dataclass(frozen=True)
class Offer:
    """A row of `prices.csv`; `device` is `cpu`, or contains the words of a GPU's name."""

    provider: str
    region: str
    kind: str
    machine: str
    device: str
    cores: int
    usd_per_hour: float
    as_of: str
    source: str


@dataclass(frozen=True)
class Prices:
    """The shipped price table, and the operator's own prices in USD per hour."""

    offers: tuple[Offer, ...]
    cpu: float | None = None
    gpu: float | None = None

    def price(self, machine: Machine, request: BenchmarkRequest) -> Price | None:
        """Return the caller's price, the operator's or the table's; None if none is known."""
        if request.price_per_hour is not None:
            return _custom(request.price_per_hour, machine, "the request", request.utilisation)
        own = self.gpu if machine.device == "cuda" else self.cpu
        if own is not None:
            return _custom(own, machine, "the service's settings", request.utilisation)
        offer = self._offer(machine)
        if offer is None:
            return None
        return Price(
            per_hour=offer.usd_per_hour,
            provider=offer.provider,
            region=offer.region,
            kind=offer.kind,
            machine=offer.machine,
            as_of=offer.as_of,
            source=offer.source,
            utilisation=request.utilisation,
        )

    def _offer(self, machine: Machine) -> Offer | None:
        """Return the cheapest on-demand offer of a comparable machine; None if the table has none.

        A CPU is matched by its cores, a GPU by its name. A GPU partition has no price: the table
        lists whole GPUs.
        """
        offers = [offer for offer in self.offers if offer.kind == "on_demand"]
        if machine.device == "cpu":
            enough = [o for o in offers if o.device == "cpu" and o.cores >= machine.cores]
            return min(enough, key=lambda offer: (offer.cores, offer.usd_per_hour), default=None)
        words = set(machine.name.upper().replace("-", " ").split())
        if "MIG" in words:
            return None
        same = [offer for offer in offers if set(offer.device.upper().split()) <= words]
        return min(same, key=lambda offer: offer.usd_per_hour, default=None)


def read_prices(cpu: float | None = None, gpu: float | None = None) -> Prices:
    text = files("benchmarker").joinpath("prices.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return Prices(
        tuple(
            Offer(
                provider=row["provider"],
                region=row["region"],
                kind=row["kind"],
                machine=row["machine"],
                device=row["device"],
                cores=int(row["cores"] or 0),
                usd_per_hour=float(row["usd_per_hour"]),
                as_of=row["as_of"],
                source=row["source"],
            )
            for row in rows
        ),
        cpu,
        gpu,
    )


def per_inference(price: Price, throughput: float) -> float:
    """Return the cost of a sample in USD; `throughput` is in samples per second."""
    return price.per_hour / 3600 / throughput / price.utilisation


def _custom(per_hour: float, machine: Machine, source: str, utilisation: float) -> Price:
    return Price(
        per_hour=per_hour,
        provider="custom",
        region="custom",
        kind="custom",
        machine=machine.name,
        as_of=datetime.now(UTC).date().isoformat(),
        source=source,
        utilisation=utilisation,
    )
