"""The licences that a model's card names, and whether they allow the module's use."""

import re
from collections.abc import Collection

from common.contracts.generation import Accepted, Check
from generator.reasons import refuse
from generator.snapshot import Snapshot

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
# mnpl and mrl are Mistral's research licences, apple-amlr is Apple's.
NON_COMMERCIAL = re.compile(
    r"(?:^|-)(?:nc|noncommercial|non-commercial|research|mnpl|mrl)(?:-|$)|^apple-amlr$"
)


def licenses_of(snapshot: Snapshot) -> list[str]:
    """Return the identifiers of the licences; anything else that an owner wrote is dropped."""
    return [name for name in snapshot.description.licenses if LICENSE.fullmatch(name)]


def license_of(snapshot: Snapshot) -> str | None:
    """Return the only licence; None without one, or with several to choose from."""
    named = licenses_of(snapshot)
    return named[0] if len(named) == 1 else None


def check_license(snapshot: Snapshot, accept: Collection[Accepted]) -> Check:
    """Judge the licence of the model, or of an adapter's base, which the message names."""
    model = f"the adapter's base {snapshot.id}" if snapshot.adapter else "the model"
    whose = f" of {model}" if snapshot.adapter else ""
    named = licenses_of(snapshot)
    own = snapshot.description.own_license
    if LICENSE.fullmatch(own):
        named = [own if name == "other" else name for name in named]
    shown = ", ".join(named)
    if not named and snapshot.description.licenses:
        message = f"{model} names a licence that the Hub does not list: read it before you use it"
    elif not named:
        message = f"{model} names no licence: ask its owner before you use it"
    elif any(map(NON_COMMERCIAL.search, named)):
        message = f"the licence {shown}{whose} forbids commercial use"
        if "license" not in accept:
            raise refuse(
                message,
                "license",
                "a model of another licence, or, where your use is none or its owner allows it, "
                'accept: ["license"]',
            )
    elif "other" in snapshot.description.licenses or "unknown" in named:
        called = "" if named == ["other"] or "unknown" in named else f" ({shown})"
        message = f"{model} has a licence of its own{called}: read it before you use it"
    else:
        return Check(name="license", outcome="passed", message=shown + whose)
    return Check(name="license", outcome="warning", message=message)
