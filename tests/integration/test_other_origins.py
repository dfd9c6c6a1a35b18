"""The API from a page of another origin, in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route

from integration import packages
from integration.caller import Account
from integration.pages import NODE_MODULES
from local.stack import Stack

CALL = """
async ([url, method, key, body]) => {
  const headers = { Authorization: `Bearer ${key}`, "X-Request-Id": "from-elsewhere" };
  if (body) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    const { data } = await answer.json();
    return [answer.status, answer.headers.get("X-Request-Id"), answer.headers.get("RateLimit")];
  } catch (error) {
    return [0, error.name, ""];
  }
}
"""

# Import map of a page on another site, which hosts the published JavaScript client itself.
IMPORTS = """
{"imports": {"lilypad-client": "/client/index.js", "lilypad-client/realtime": "/client/realtime.js",
  "socket.io-client": "/client/socket.io.esm.min.js"}}
"""
CLIENT = """
async ([baseUrl, apiKey, modelUrl, imports]) => {
  const map = document.createElement('script');
  Object.assign(map, { type: 'importmap', textContent: imports });
  document.head.append(map);
  const { LilypadClient } = await import('lilypad-client');
  const { subscribeMetrics } = await import('lilypad-client/realtime');
  const found = {};
  try { new LilypadClient({ baseUrl, apiKey }); } catch (error) { found.refused = error.message; }
  const client = new LilypadClient({ baseUrl, apiKey, allowBrowser: true });
  found.files = Object.keys((await client.generateModule({ modelUrl })).files);
  found.archive = [...(await client.download({ modelUrl })).subarray(0, 2)];
  await client.metrics.record({ modelId: 'from a page', metrics: { latency: 8 } });
  const since = '2026-01-01T00:00:00Z';
  for await (const { metrics } of subscribeMetrics(client, { modelId: 'from a page', since })) {
    found.update = metrics;
    break;
  }
  const error = await client.getMetrics({ modelId: 'nothing' }).catch((reason) => reason);
  found.error = [error.name, error.code, error.requestId === ''];
  found.limit = client.lastRateLimit.limit;
  return found;
}
"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def test_a_page_of_an_allowed_origin_calls_the_api_and_reads_its_headers(
    stack: Stack, other_site: int, account: Account, page: Page
) -> None:
    page.goto(f"http://localhost:{other_site}")
    body = {"modelUrl": "lilypad/tiny-text-classification"}
    for method, path, sent, status in (
        ("POST", "/v1/api/generate", body, 200),
        ("POST", "/v1/api/generate", {"modelUrl": "!"}, 400),
        ("GET", "/v1/api/alerts", None, 200),
        ("DELETE", "/v1/api/alerts/rules/rule_none", None, 404),
    ):
        answer = page.evaluate(CALL, [stack.url + path, method, account.key, sent])
        assert answer[:2] == [status, "from-elsewhere"], (method, path)
        assert answer[2].startswith('"api";r=')


def test_the_javascript_client_works_in_a_page_of_an_allowed_origin(
    stack: Stack, other_site: int, account: Account, page: Page
) -> None:
    socket_io = NODE_MODULES / "socket.io-client" / "dist"

    def serve(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        folder = socket_io if name.startswith("socket.io") else packages.javascript() / "dist"
        route.fulfill(path=folder / name, content_type="text/javascript")

    page.route("**/client/*.js", serve)
    page.goto(f"http://localhost:{other_site}")
    arguments = [stack.url, account.key, "lilypad/tiny-text-classification", IMPORTS]
    result = page.evaluate(CLIENT, arguments)
    assert "allowBrowser" in result["refused"]
    assert "run_inference.py" in result["files"]
    assert bytes(result["archive"]) == b"PK"
    assert result["update"] == {"latency": 8}
    assert result["error"] == ["NotFoundError", 3001, False]
    assert result["limit"] > 0


def test_a_page_of_any_other_origin_can_read_nothing(
    stack: Stack, other_site: int, account: Account, page: Page
) -> None:
    page.goto(f"http://127.0.0.1:{other_site}")
    for method in ("GET", "DELETE"):
        url = f"{stack.url}/v1/api/alerts"
        assert page.evaluate(CALL, [url, method, account.key, None])[:2] == [0, "TypeError"]


def test_no_origin_is_allowed_to_send_a_cookie_or_to_read_a_page(
    stack: Stack, other_site: int, account: Account
) -> None:
    origin = f"http://localhost:{other_site}"
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "authorization, content-type, x-lilypad-code"
    preflight = account.http.options("/v1/api/generate", headers=headers)
    assert preflight.status_code == 200, preflight.text
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-credentials" not in preflight.headers
    for path in ("/dashboard", "/login"):
        answer = account.http.get(path, headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
