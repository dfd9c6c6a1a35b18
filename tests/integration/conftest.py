"""Fixtures: the whole stack with real servers and the small Hub, and a browser."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser

from hub.testing import RunningHub
from integration.caller import Account
from integration.chromium import HEIGHT, WIDTHS, Person, chromium
from integration.collector import Collector
from integration.mailbox import Mailbox
from integration.monitored import MonitoredStack
from local.services import SERVICES
from local.stack import Stack


@pytest.fixture(scope="package")
def hub() -> Iterator[RunningHub]:
    with RunningHub() as running:
        yield running


@pytest.fixture(scope="package")
def other_site() -> Iterator[int]:
    """The port of another site's page; `stack` allows only its origin at http://localhost."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<title>another site</title>")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="package")
def mailbox() -> Iterator[Mailbox]:
    """The mails that `stack` sends."""
    with Mailbox() as running:
        yield running


@pytest.fixture(scope="package")
def stack(hub: RunningHub, other_site: int, mailbox: Mailbox) -> Iterator[Stack]:
    """A stack with the default limits."""
    # Except for registrations: every test makes some, all from one address. One thread: two would
    # wait for each other on a busy machine.
    environment = {"HF_ENDPOINT": hub.url, "RATE_REGISTER": "100000", "OMP_NUM_THREADS": "1"}
    environment["ALLOWED_ORIGINS"] = f"http://localhost:{other_site}"
    # Webhooks may reach receivers on this machine.
    environment["WEBHOOK_NETWORKS"] = "127.0.0.0/8"
    environment["SMTP_URL"] = mailbox.url
    with Stack(environment=environment) as running:
        yield running


@pytest.fixture(scope="package")
def generous_stack(hub: RunningHub) -> Iterator[Stack]:
    """A stack for load tests, with limits too high to be reached."""
    names = ("RATE_API", "RATE_GENERATE", "RATE_REGISTER", "RATE_LOGIN")
    environment = {"HF_ENDPOINT": hub.url, **dict.fromkeys(names, "10000000")}
    services = [
        replace(service, replicas=1) if service.name in ("metrics", "realtime") else service
        for service in SERVICES
    ]
    with Stack(services=services, environment=environment, flood_limit=1_000_000) as running:
        yield running


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="package")
def measuring_stack(
    hub: RunningHub, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack for tests that run models, with metrics, traces, and webhooks to this machine."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("models")),
        "OMP_NUM_THREADS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_TRACES_SAMPLER_ARG": "1",
        "RATE_REGISTER": "100000",
        "SWEEP_INTERVAL_S": "0.5",
        "VERIFICATIONS_PER_HOUR": "2",
        "WEBHOOK_NETWORKS": "127.0.0.0/8",
    }
    one_each = [replace(service, replicas=1, probed=True) for service in SERVICES]
    with Stack(services=one_each, environment=environment) as running:
        yield running


@pytest.fixture(scope="package")
def monitored_stack() -> Iterator[MonitoredStack]:
    with MonitoredStack() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser per test file, since no asynchronous test can run while it is open."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def window(stack: Stack, browser: Browser) -> Iterator[Person]:
    """A browser window at the stack, one per test file."""
    window = Person(browser, stack.url)
    yield window
    window.context.close()


@pytest.fixture
def stranger(window: Person) -> Iterator[Person]:
    """A person without an account, in the window that all tests share."""
    window.context.clear_cookies()
    window.page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    yield window
    window.page.goto("about:blank")  # ends its sockets
    complaints, window.complaints = window.complaints, []
    assert complaints == []


@pytest.fixture(scope="package")
def new_account(stack: Stack) -> Callable[[], Account]:
    return lambda: Account(stack.url)


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    account = Account(stack.url)
    yield account
    account.http.close()


@pytest.fixture
def other(stack: Stack) -> Iterator[Account]:
    account = Account(stack.url)
    yield account
    account.http.close()


@pytest.fixture
def person(stranger: Person, account: Account) -> Person:
    """A person logged in to the test's own account, in the window that all tests share."""
    stranger.log_in(account.email)
    return stranger
