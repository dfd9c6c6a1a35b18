"""Address check of webhooks: no event is posted to the operator's own network.

A name is resolved once for each attempt, all of its addresses are checked, and
the connection goes to one of those: a name server that would answer something
else the second time is not asked again.
"""

import asyncio
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from common.errors import InvalidRequest
from webhooks.settings import Network

# An IPv4 address as NAT64 writes it (RFC 6052).
TRANSLATED = IPv6Network("64:ff9b::/96")
# The former notation, `::127.0.0.1`; `::` and `::1` are not IPv4 addresses.
COMPATIBLE = IPv6Network("::/96")
# All that the internet routes (RFC 4291): other ways to write an IPv4 address, translators of one's
# own and identifiers of routers lie beside it.
GLOBAL_UNICAST = IPv6Network("2000::/3")
# Inner addresses that Python calls global: special assignments, former relays, examples,
# and the address at which Azure gives machines their secrets.
NOT_GLOBAL = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("168.63.129.16/32"),
    IPv6Network("3fff::/20"),
)
RESOLVE_TIMEOUT_S = 4.0


class InnerAddress(OSError):
    """Error for an address inside a network that is not public."""

    def __init__(self) -> None:
        super().__init__("the address is not on the public internet")


class Addresses:
    def __init__(self, allowed: Collection[Network] = ()) -> None:
        self.allowed = allowed

    async def check(self, url: str) -> None:
        """Check a webhook's address before it is stored.

        Raises:
            InvalidRequest: it is not an https address of the public internet.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _invalid("write an address such as https://example.com/hooks") from None
        if not host or parts.scheme not in ("http", "https"):
            raise _invalid("write an address such as https://example.com/hooks")
        if parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
            raise _invalid("leave out passwords, blanks and #fragments")
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                resolved = await self.resolver().resolve(host, port or 443, socket.AF_UNSPEC)
        except InnerAddress as error:
            raise _invalid(f"{error}; events can only be posted to one that is") from None
        except (OSError, UnicodeError, TimeoutError):
            raise _invalid(f"no address was found for {host}; check its spelling") from None
        if parts.scheme == "http" and not all(
            self._allowed(ip_address(address["host"])) for address in resolved
        ):
            raise _invalid("use https, so that nobody on the way can read what is posted")

    def may_reach(self, address: str) -> bool:
        """Return whether an IP address is public, or in a network that the operator allows."""
        ip = _as_reached(ip_address(address.partition("%")[0]))
        return self._allowed(ip) or _is_public(ip)

    def resolver(self) -> "PublicResolver":
        return PublicResolver(self)

    def _allowed(self, ip: IPv4Address | IPv6Address) -> bool:
        return any(ip in network for network in self.allowed)


class PublicResolver(AbstractResolver):
    """Resolver for connections; refuses a name that has any inner address."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.names = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        resolved = await self.names.resolve(host, port, family)
        if not all(self.addresses.may_reach(address["host"]) for address in resolved):
            raise InnerAddress
        return resolved

    async def close(self) -> None:
        await self.names.close()


def _is_public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv6Address) and ip not in GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in NOT_GLOBAL)


def _as_reached(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip in TRANSLATED or (ip in COMPATIBLE and int(ip) > 1):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo[1] if ip.teredo else None
    return ip.ipv4_mapped or ip.sixtofour or teredo or ip


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"url: {message}", fields=[{"path": "url", "message": message}])
