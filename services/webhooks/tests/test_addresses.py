"""Events are posted to public addresses and nowhere else."""

import socket
from ipaddress import ip_network

import pytest
from aiohttp.abc import ResolveResult

from common.errors import InvalidRequest
from webhooks.addresses import Addresses, InnerAddress, PublicResolver
from webhooks.post import Poster

PUBLIC = Addresses()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "ff02::1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "5f00::1", "3fff::1", "4000::1",
        "2001::1", "192.0.0.8", "192.88.99.1", "168.63.129.16",
    ],
)  # fmt: skip
def test_a_non_public_address_may_not_be_reached(address: str) -> None:
    assert not PUBLIC.may_reach(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_a_public_address_may_be_reached(address: str) -> None:
    assert PUBLIC.may_reach(address)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("example.com/hook", "https://example.com/hooks"),
        ("ftp://example.com", "https://example.com/hooks"),
        ("https://", "https://example.com/hooks"),
        ("https://[half", "https://example.com/hooks"),
        ("https://example.com:70000", "https://example.com/hooks"),
        ("https://me:secret@example.com", "leave out passwords"),
        ("https://127.0.0.1/hook", "not on the public internet"),
        ("https://2130706433/hook", "not on the public internet"),
        ("https://0x7f.1/hook", "not on the public internet"),
        ("https://[::1]/hook", "not on the public internet"),
        ("https://localhost/hook", "not on the public internet"),
        ("https://nowhere.invalid/hook", "no address was found for nowhere.invalid"),
    ],
)
async def test_an_unusable_address_is_refused_with_advice(url: str, advice: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await PUBLIC.check(url)
    assert advice in refusal.value.message
    assert "secret" not in refusal.value.message


async def test_a_public_address_without_tls_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="use https"):
        await PUBLIC.check("http://93.184.215.14/hook")


async def test_a_network_that_the_operator_allows_is_accepted_over_http() -> None:
    await Addresses((ip_network("127.0.0.0/8"),)).check("http://127.0.0.1/hook")


async def test_a_name_that_later_resolves_to_a_non_public_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lead_inside(
        _: object, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        raise InnerAddress

    monkeypatch.setattr(PublicResolver, "resolve", lead_inside)
    async with Poster(PUBLIC) as poster:
        posted = await poster.post("https://example.com/hook", "msg_1", "{}", ["whsec_c2VjcmV0"])
    assert posted.attempt.error == "the address is not on the public internet"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_an_ip_address_in_a_non_public_network_is_not_connected_to(host: str) -> None:
    async with Poster(PUBLIC) as poster:
        posted = await poster.post(f"http://{host}:1/", "msg_1", "{}", ["whsec_c2VjcmV0"])
    assert posted.attempt.error == "the address is not on the public internet"
