"""All pages of the gateway: links, security headers, width on a phone."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx2
import pytest

from integration.caller import PASSWORD, Account
from integration.chromium import HEIGHT, WIDER, WIDTHS, Person, chromium
from local.stack import Stack

# External sites that pages link to; a person checks each when it is added.
ELSEWHERE = {"github.com", "huggingface.co", "keda.sh", "owasp.org", "www.standardwebhooks.com"}
MODEL = "openai/gpt2"
# Pages that no link leads to.
UNLINKED = ("/forgot", "/reset?token=lmg_reset_nothing", "/nothing-here")


@dataclass
class Document(HTMLParser):
    """The links and anchors of a page."""

    status: int
    headers: httpx2.Headers
    links: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, _: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value and name in ("href", "src"):
                self.links.add(value)
            elif value and name == "id":
                self.anchors.add(value)


@pytest.fixture(scope="module")
def reader(stack: Stack) -> Iterator[Account]:
    """A logged-in person with a key, a recorded model and an alert rule."""
    account = Account(stack.url)
    account.post("/v1/api/monitor/record", {"modelId": MODEL, "metrics": {"latency": 12.5}})
    yield account
    account.http.close()


@pytest.fixture(scope="module")
def documents(stack: Stack, reader: Account) -> dict[str, Document]:
    """Every page by its address, with and without a login."""
    headers = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
    with httpx2.Client(base_url=stack.url, headers=headers, timeout=60) as browser:
        documents_by_address = crawl(browser, stack.url, ["/", *UNLINKED])
        login = {"email": reader.email, "password": PASSWORD}
        # The cookie is for https only, except in browsers on this machine.
        cookie = browser.post("/login", data=login).headers["set-cookie"].partition(";")[0]
        browser.headers["Cookie"] = cookie
        for address in [one for one in documents_by_address if one.startswith("/dashboard")]:
            del documents_by_address[address]  # the page redirected to the login
        return documents_by_address | crawl(
            browser, stack.url, ["/dashboard"], documents_by_address
        )


def crawl(
    browser: httpx2.Client, url: str, addresses: list[str], known: Collection[str] = ()
) -> dict[str, Document]:
    documents_by_address: dict[str, Document] = {}
    waiting = list(addresses)
    while waiting:
        address = waiting.pop()
        if address in documents_by_address or address in known:
            continue
        answer = browser.get(address)
        documents_by_address[address] = document = Document(answer.status_code, answer.headers)
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        document.feed(answer.text)
        for link in document.links:
            to = urlsplit(urldefrag(urljoin(url + address, link)).url)
            if to.scheme in ("http", "https") and f"{to.scheme}://{to.netloc}" == url:
                waiting.append(to.path + (f"?{to.query}" if to.query else ""))
    return documents_by_address


def test_every_link_of_every_page_has_a_target(
    stack: Stack, documents: dict[str, Document]
) -> None:
    broken = []
    for address, document in documents.items():
        for link in document.links:
            to, anchor = urldefrag(urljoin(stack.url + address, link))
            parts = urlsplit(to)
            if parts.scheme == "data":
                continue
            if f"{parts.scheme}://{parts.netloc}" != stack.url:
                if parts.scheme != "https" or parts.hostname not in ELSEWHERE:
                    broken.append(f"{address}: {link} leads elsewhere")
                continue
            there = documents.get(parts.path + (f"?{parts.query}" if parts.query else ""))
            if there is None or (there.status not in (200, 303) and there is not document):
                broken.append(f"{address}: {link} leads to nothing")
            elif anchor and there.status == 200 and anchor not in there.anchors:
                broken.append(f"{address}: {link} has no such anchor")
    guides = [address for address in documents if address.startswith("/docs/how-to/")]
    assert broken == []
    assert len(guides) >= 11
    assert len(documents) > 100
    needed = {  # linked from the pages where people need them
        "/dashboard/models": "/docs/how-to/monitor",
        "/dashboard/benchmarks": "/docs/how-to/benchmark",
        "/dashboard/generate": "/docs/how-to/modules",
        "/dashboard/keys": "/docs/how-to/keys",
        "/nothing-here": "/docs",
    }
    assert [page for page, link in needed.items() if link not in documents[page].links] == []


def test_every_page_and_file_forbids_frames_type_sniffing_and_inline_code(
    documents: dict[str, Document],
) -> None:
    bare = [
        address
        for address, document in documents.items()
        if "frame-ancestors 'none'" not in document.headers.get("content-security-policy", "")
        or "unsafe" in document.headers["content-security-policy"]
        or document.headers.get("x-content-type-options") != "nosniff"
        or document.headers.get("referrer-policy") != "same-origin"
    ]
    assert bare == []


@pytest.mark.long
def test_no_page_is_wider_than_a_phone(
    stack: Stack, documents: dict[str, Document], reader: Account
) -> None:
    """The pages of operations are checked where they are tried."""
    pages = [
        address
        for address, document in documents.items()
        if document.anchors and not address.startswith(("/docs/v1/", "/docs/v2/"))
    ]
    with chromium() as browser:
        person = Person(browser, stack.url)
        person.page.set_viewport_size({"width": min(WIDTHS), "height": HEIGHT})
        wide = look(person, [page for page in pages if not page.startswith("/dashboard")])
        person.log_in(reader.email)
        wide |= look(person, [page for page in pages if page.startswith("/dashboard")])
        assert person.complaints == []
    assert wide == {}


def look(person: Person, pages: list[str]) -> dict[str, int]:
    """Map each page that is too wide to the pixels by which it exceeds the window."""
    overhangs = {}
    for address in pages:
        person.page.goto(address)
        overhangs[address] = person.page.evaluate(WIDER)
    return {address: overhang for address, overhang in overhangs.items() if overhang > 0}
