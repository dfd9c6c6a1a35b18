"""Access to models for an account: with the operator's token, else with its own.

The operator's token reads public models, and the gated or private ones that `SHARED_MODELS`
lists. Models read with an account's own token are cached for that token alone.
"""

import hashlib

from common.bus import Bus
from common.context import current
from common.contracts.address import Address
from common.contracts.generation import ReadBy
from common.contracts.hub import (
    HUB_TOKEN,
    HubIdentity,
    HubTokenCheck,
    HubTokenRequest,
)
from common.errors import InvalidRequest, ModelNotFound, ModelRefused, NoResponders, ServiceError
from generator.hub import STORE_TOKEN, Hub, NoSuchModel, within
from generator.snapshot import Snapshot
from generator.snapshots import Recent, Snapshots

# Account tokens that have a cache; the least recently used one is evicted first.
MAX_TOKENS = 128
# Snapshots cached per token.
MAX_OWN_SNAPSHOTS = 32
CHECK_TIMEOUT_S = 10.0


class Access:
    def __init__(self, public: Snapshots, bus: Bus | None) -> None:
        self.public = public
        self.bus = bus
        # Keyed by the digest of account and token.
        self._own: Recent[bytes, Snapshots] = Recent(MAX_TOKENS)

    async def read(self, address: Address) -> tuple[Snapshot, float, ReadBy]:
        """Return the model, the seconds since the Hub confirmed it, and who can read it.

        Raises as `Snapshots.read` does.
        """
        try:
            snapshot, age = await self.public.read(address)
        except (ModelNotFound, ModelRefused) as error:
            if not _may_be_closed(error):
                raise
            own = await self._own_snapshots()
            if own is None:
                raise _advised(error) from None
            snapshot, age = await own.read(address)
            return snapshot, age, "account" if snapshot.description.is_closed else "anybody"
        return snapshot, age, "operator" if snapshot.description.is_closed else "anybody"

    async def _own_snapshots(self) -> Snapshots | None:
        account = current.get().account
        if self.bus is None or not account:
            return None
        try:
            token = (await self.bus.call(HUB_TOKEN, HubTokenRequest(account=account))).token
        except NoResponders:
            return None
        if token is None:
            return None
        key = hashlib.sha256(f"{account} {token}".encode()).digest()
        snapshots = self._own.use(key)
        if snapshots is None:
            hub = self.public.hub.with_token(token)
            snapshots = Snapshots(
                hub, clock=self.public.clock, open_models=None, max_size=MAX_OWN_SNAPSHOTS
            )
            self._own.keep(key, snapshots)
        return snapshots


async def identify(hub: Hub, check: HubTokenCheck) -> HubIdentity:
    """Ask the Hub which user a token belongs to.

    Raises:
        InvalidRequest: the Hub does not accept it.
        HubUnavailable: the Hub cannot be asked.
    """
    try:
        owner = await within(CHECK_TIMEOUT_S, hub.with_token(check.token).whoami())
    except (ModelRefused, ModelNotFound):
        fault = "is not accepted by the Hub; create one there under Settings, Access Tokens"
        fields = [{"path": "token", "message": fault}]
        raise InvalidRequest(f"token: {fault}", fields=fields) from None
    auth = owner.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    role = token.get("role") if isinstance(token, dict) else None
    return HubIdentity(user=str(owner.get("name"))[:100], role=str(role or "unknown")[:40])


def _may_be_closed(error: ServiceError) -> bool:
    is_gated = error.details.get("reason") == "gated"
    return is_gated or isinstance(error, NoSuchModel)


def _advised(error: ServiceError) -> ServiceError:
    """Add advice on private models to NoSuchModel; return any other refusal unchanged."""
    if isinstance(error, NoSuchModel):
        stop = "" if "suggestion" in error.details else "."
        advice = f"{error.message}{stop} For a private model, {STORE_TOKEN}"
        return NoSuchModel(advice, **error.details)
    return error
