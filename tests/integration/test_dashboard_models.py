"""The model pages of the dashboard in a real browser."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import APIResponse, Page, Route, expect

from integration.caller import Account
from integration.chromium import HEIGHT, WIDTHS, Person, generate
from integration.page_scripts import APART, AXES, REFRESHED, SHIFT

MODEL = "lilypad/tiny-text-classification"
# The values of the latency's chart.
LATENCY = "document.querySelector('.chart[data-metric=latency]').drawn.chart.series[0].value"
COST = LATENCY.replace("latency", "cost_per_inference")
# A model's name and a metric's unit that would run as script if they were not escaped.
HOSTILE = "<img src=x onerror=alert(1)>'\"{{7*7}}</script><script>alert(2)</script>"


def record(account: Account, model: str, count: int = 1, **metrics: float) -> None:
    now = datetime.now(UTC)
    records = [
        {
            "modelId": model,
            "timestamp": (now - timedelta(seconds=place)).isoformat(),
            "metrics": metrics,
        }
        for place in reversed(range(count))
    ]
    headers = {"X-Lilypad-Beta": "v2"}
    answer = account.post("/v2/api/monitor/record", {"records": records}, headers=headers)
    assert answer.status_code == 200, answer.text


def test_hostile_cards_and_names_run_no_script(person: Person, account: Account) -> None:
    page = person.open()
    page.on("dialog", lambda dialog: person.complaints.append(dialog.message))
    for model in ("lilypad/tiny-hostile-card", "lilypad/tiny-hostile-names", HOSTILE):
        generate(page, model)
        page.locator("#verdict, .refusal").wait_for()
    record(account, HOSTILE, latency=1.0)
    page.goto("/dashboard/models")
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    page.locator(".uplot canvas").first.wait_for()
    assert page.locator("main img, main script").count() == 0
    page.set_viewport_size({"width": WIDTHS[-1], "height": HEIGHT})
    # A name that would look like another, and names without a place to break at.
    for name, written in (("open\u200bai/gpt2", r"open\u200bai/gpt2"), ("x" * 256, "x" * 256)):
        record(account, name, **{"a" * 64: 12_345_678.9})
        page.goto("/dashboard/models")
        assert person.excess(page) == []
        page.get_by_role("link", name=written, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(written)
        page.locator(".uplot canvas").first.wait_for()
        assert person.excess(page) == []
    account.make_key("a\u00a0b")
    page.goto("/dashboard/keys")
    expect(page.get_by_role("button", name=r"Revoke a\u00a0b")).to_be_visible()
    expect(page.get_by_label(r"New name of a\u00a0b")).to_have_value("a\u00a0b")
    page.close()


def test_a_live_chart_keeps_the_zoom_of_its_user(person: Person, account: Account) -> None:
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    connection = page.locator("#connection")
    expect(connection).to_contain_text("Live")
    record(account, MODEL, latency=12.5)
    chart = page.locator(".chart[data-metric=latency]")
    chart.locator("canvas").wait_for()
    expect(connection).to_contain_text("Last update")
    expect(chart.locator("figcaption")).to_have_text("Latency, ms 1 sample")
    expect(chart.locator(".plot")).to_have_accessible_name(re.compile("^Latency, ms[.] "))
    expect(chart.locator(".reading")).to_contain_text("Newest: ")
    # The page of a model without records had no statistics.
    expect(page.get_by_role("heading", name="Statistics of the last day")).to_be_visible()
    # A newcomer's single sample is shown within a minute, not within years.
    page.wait_for_function(
        "(figure) => { const { min, max } = figure.drawn.u.scales.x; return max - min === 60; }",
        arg=chart.element_handle(),
    )
    record(account, MODEL, 60, latency=14.0, throughput=80.0)
    page.reload()
    expect(connection).to_contain_text("Live")
    expect(connection).to_contain_text("Last update")
    metrics = page.locator(".chart").evaluate_all("all => all.map((one) => one.dataset.metric)")
    assert metrics == ["throughput", "latency"]
    over = chart.locator(".u-over")
    box = over.bounding_box()
    assert box
    page.mouse.move(box["x"] + 40, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 60, steps=4)
    page.mouse.up()
    before = zoom(page)
    for _ in range(5):
        record(account, MODEL, latency=15.0)
    page.wait_for_function(
        "figure => figure.drawn.chart.series[0].value.includes(15)", arg=chart.element_handle()
    )
    assert zoom(page) == before
    # Updates carry only some samples of a burst; the others are read.
    record(account, MODEL, 60, latency=15.0)
    expect(chart.locator("figcaption")).to_have_text("Latency, ms 126 samples")
    assert zoom(page) == before
    page.get_by_role("button", name="Follow").click()
    assert zoom(page) != before


def zoom(page: Page) -> Any:
    figure = "document.querySelector('.chart[data-metric=latency]').drawn"
    return page.evaluate(f"(({{ min, max }}) => [min, max])({figure}.u.scales.x)")


def test_a_late_answer_with_all_charts_removes_no_newer_points(
    person: Person, account: Account
) -> None:
    record(account, MODEL, 30, latency=12.0)
    page = person.page
    answers: list[tuple[Route, APIResponse]] = []

    def hold_up(route: Route) -> None:
        if len(answers) < 2:
            answers.append((route, route.fetch()))
        else:  # the samples that no update carried
            route.abort()

    page.route("**/series?*", hold_up)
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    expect(page.locator("#connection")).to_contain_text("Live")
    # The title of a new metric is read with all charts; the answers are held up.
    for number, metric, value in ((1, "throughput", 98.0), (2, "memory_usage", 99.0)):
        record(account, MODEL, **{metric: 80.0})
        while len(answers) < number:
            page.wait_for_timeout(50)
        record(account, MODEL, latency=value)
        page.wait_for_function(f"() => ({LATENCY}).includes({value})")
    for (route, response), title in zip(
        reversed(answers), ("Memory, MiB", "Throughput, "), strict=True
    ):
        with page.expect_response("**/series?*") as answered:
            route.fulfill(response=response)
        answered.value.finished()
        expect(page.locator("figcaption", has_text=title)).to_be_visible()
        page.wait_for_timeout(200)
        assert page.evaluate(LATENCY) == [12.0] * 30 + [98.0, 99.0]
    expect(page.locator(".chart[data-metric=latency] figcaption .quiet")).to_have_text(
        "32+ samples"
    )
    page.unroute_all()


def test_an_hour_view_shows_its_samples_even_if_the_day_has_thousands(
    person: Person, account: Account
) -> None:
    now = datetime.now(UTC)
    times = [now - timedelta(seconds=20 * place) for place in range(4_500)]
    others = {f"metric_{place:02d}": 1.0 for place in range(20)}
    for begin in range(0, len(times), 900):
        records = [
            {"modelId": MODEL, "timestamp": time.isoformat(), "metrics": {"throughput": 80.0}}
            for time in times[begin : begin + 900]
        ]
        records[0]["metrics"] = {"throughput": 80.0, **others}
        headers = {"X-Lilypad-Beta": "v2"}
        answer = account.post("/v2/api/monitor/record", {"records": records}, headers=headers)
        assert answer.status_code == 200, answer.text
    page = person.page
    for window, caption in (
        ("day", "mean, minimum and maximum of each 5 minutes"),
        ("hour", re.compile(r"1(79|80) samples")),
    ):
        page.goto(f"/dashboard/models/watch?model={MODEL}&window={window}")
        first = page.locator(".chart").first
        expect(first.locator("figcaption")).to_contain_text("Throughput, samples/s")
        expect(first.locator("figcaption .quiet")).to_have_text(caption)
    expect(page.locator(".chart")).to_have_count(16)
    page.get_by_role("link", name="17 to 21 of 21 metrics").click()
    expect(page.locator(".chart")).to_have_count(5)


def test_two_hundred_updates_a_second_cause_at_most_twelve_redraws(
    person: Person, account: Account
) -> None:
    record(account, MODEL, 30, latency=12.0)
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    page.locator(".chart[data-metric=latency] canvas").wait_for()
    redraws = page.evaluate("""async () => {
      const { drawn } = document.querySelector('.chart[data-metric=latency]');
      const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      await sleep(500);
      const before = drawn.redraws;
      const begin = performance.now();
      for (let sent = 0; sent < 400; ) {
        const due = (performance.now() - begin) / 5;
        for (; sent < due; sent += 1) drawn.append(Date.now() / 1000, 12 + (sent % 7));
        await sleep(5);
      }
      return (drawn.redraws - before) * 1000 / (performance.now() - begin);
    }""")
    assert 0 < redraws <= 12


def test_a_chart_can_be_read_with_the_keyboard_and_as_a_table(
    person: Person, account: Account
) -> None:
    record(account, MODEL, 60, latency=12.5)
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    # Updates that were missed are drawn before the page says that it is live.
    expect(page.locator("#connection")).to_contain_text("Live")
    chart = page.get_by_role("application", name="Latency")
    chart.focus()
    expect(chart).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator(".chart .reading").first).to_contain_text("12.5 ms")
    expect(page.locator("#status")).to_contain_text("12.5 ms")
    page.get_by_text("As a table").first.click()
    expect(page.locator(".chart details li")).to_have_count(50)
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".chart details li")).to_have_count(10)


def test_a_page_polls_while_its_socket_is_disconnected(person: Person, account: Account) -> None:
    record(account, MODEL, latency=12.5)
    page = person.page
    page.route("**/socket.io/**", lambda route: route.abort())
    page.goto(f"/dashboard/models/watch?model={MODEL}")
    expect(page.locator("#connection")).to_contain_text("Polling")
    record(account, MODEL, latency=99.0)
    page.wait_for_function(
        "() => document.querySelector('.chart').drawn.chart.series[0].value.includes(99)"
    )
    page.unroute("**/socket.io/**")
    expect(page.locator("#connection")).to_contain_text("Live")
    # Whatever notices first that the session has ended leads to the login and back to this page.
    page.route("**/socket.io/**", lambda route: route.abort())
    page.route("**/socket-tokens", lambda route: route.abort())
    page.reload()
    expect(page.locator("#connection")).to_contain_text("Polling")
    person.context.clear_cookies()
    page.wait_for_url(re.compile("/login.next=/dashboard/models/watch"))
    page.unroute_all()
    person.complaints.clear()  # the requests that were aborted


def test_an_alert_appears_on_an_open_page_and_is_acknowledged(
    person: Person, account: Account
) -> None:
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}")
    page.get_by_text("Add a rule").click()
    page.get_by_role("button", name="Add the rule").click()
    kind = page.get_by_label("Kind")
    expect(kind).to_have_accessible_description(re.compile("rule takes “Above” or “Below”"))
    page.get_by_label("Metric").fill("latency")
    above = page.get_by_label("Above", exact=True)
    above.fill("very")
    page.get_by_role("button", name="Add the rule").click()
    expect(above).to_have_accessible_description(re.compile("Must be a number"))
    expect(above).to_be_focused()
    expect(page.get_by_label("Metric")).to_have_value("latency")
    above.fill("250")
    page.get_by_role("button", name="Add the rule").click()
    rule = page.locator("#alerts li", has_text="latency above 250")
    rule.locator("summary").click()
    above = rule.get_by_label("Above")
    above.fill("many")
    rule.get_by_role("button", name="Change the rule").click()
    expect(above).to_have_accessible_description(re.compile("Must be a number"))
    above.fill("300")
    rule.get_by_label("Severity").select_option("critical")
    rule.get_by_role("button", name="Change the rule").click()
    rule = page.locator("#alerts li", has_text="latency above 300")
    expect(rule).to_contain_text("critical")
    expect(page.locator("#connection")).to_contain_text("Live")
    page.get_by_text("Add a rule").click()
    page.get_by_label("Metric").fill("through")
    record(account, MODEL, latency=400.0)
    page.get_by_role("button", name="Acknowledge").press("Enter")
    expect(page.locator("#alerts")).to_contain_text("acknowledged")
    expect(page.get_by_role("heading", name="Alerts")).to_be_focused()
    mute = rule.get_by_role("button", name="Mute", exact=True)
    # A refusal for now leaves the parts of the page as they are, and is shown in its own words.
    refusal: dict[str, Any] = {"content_type": "text/html"}
    page.route("**/dashboard/models/**", lambda route: route.fulfill(**refusal))
    words = "The metrics service is unavailable; try again."
    for status, body, shown in (
        (503, f'<p class="problem" role="alert">{words}</p>', words),
        (429, "<p>refused</p>", re.compile("^Too many requests")),
    ):
        refusal |= {"status": status, "body": body}
        mute.press("Enter")
        expect(page.locator("#trouble")).to_have_text(shown)
    with page.expect_response("**/watch?*"):
        page.evaluate(REFRESHED)
    expect(page.locator("#trouble")).to_be_visible()
    page.unroute("**/dashboard/models/**")
    with page.expect_response("**/watch?*"):
        page.evaluate("() => window.htmx.trigger('#found', 'refresh')")
    expect(page.get_by_role("heading", name="Statistics")).to_be_visible()
    expect(page.locator("#trouble")).to_be_hidden()
    mute.press("Enter")
    expect(rule).to_contain_text("muted")
    unmute = rule.get_by_role("button", name="Unmute")
    expect(unmute).to_be_focused()
    # Another tab, or a program, has removed the rule meanwhile.
    id = (unmute.get_attribute("id") or "").removeprefix("mute-")
    removed = account.http.delete(f"/v1/api/alerts/rules/{id}", headers=account.headers)
    assert removed.is_success, removed.text
    unmute.click()
    expect(page.locator("#alerts .problem")).to_have_text("No such rule.")
    expect(rule).to_have_count(0)
    expect(page.get_by_role("main")).to_have_count(1)


def test_model_pages_pass_axe_and_fit_in_both_themes_and_widths(
    person: Person, account: Account
) -> None:
    long = {"a_metric_whose_name_is_as_long_as_names_of_metrics_ever_are_here": 1.0}
    large = {"throughput": 2_345_678.0, "big": 1e16}
    record(account, MODEL, 30, latency=12.5, cost_per_inference=1e-5, **large, **long)
    close = {"latency": 12.5001, "throughput": 2_345_679.0, "cost_per_inference": 1.02e-5}
    record(account, MODEL, **close)
    assert account.post("/v1/api/monitor", {"modelId": 7}).status_code == 400
    person.page.goto(f"/dashboard/models/watch?model={MODEL}")
    expect(person.page.locator(".chart canvas")).to_have_count(5)
    assert person.page.evaluate(SHIFT) < 0.05
    for labels, fit in person.page.evaluate(AXES):
        assert fit, labels
        assert len(set(labels)) == len(labels), labels
    # Costs are those of 1,000 inferences, as on the pages of runs, also of an update.
    costs = person.page.get_by_role("row", name=re.compile("^Cost per 1,000 inferences"))
    expect(costs.first).to_contain_text("0.01")
    cost = person.page.locator(".chart[data-metric=cost_per_inference]")
    expect(cost.locator("figcaption")).to_contain_text("Cost per 1,000 inferences")
    person.page.route("**/series?*", lambda route: route.abort())
    record(account, MODEL, cost_per_inference=1.04e-5)
    person.page.wait_for_function(f"{COST}.at(-1) === 0.0104 && Math.min(...{COST}) > 0.009")
    person.page.unroute("**/series?*")
    person.page.set_viewport_size({"width": WIDTHS[-1], "height": HEIGHT})
    person.page.wait_for_function(APART)
    paths = (
        f"/dashboard/models/watch?model={MODEL}",
        "/dashboard/models",
        "/dashboard/benchmarks",
        "/dashboard/generate",
        "/dashboard/usage",
    )
    assert [fault for path in paths for fault in person.faults(path)] == []
    # The usage page is the last; counts are written within seconds.
    page = person.page
    while not page.get_by_role("row", name="1003: 1").count():
        page.wait_for_timeout(2000)  # a hundred pages a minute are the limit
        page.reload()
    expect(page.get_by_role("row", name="1003: 1")).to_contain_text("test")
    limits = page.get_by_role("region", name="Limits", exact=True)
    assert limits.evaluate("(table) => [innerWidth, table.scrollWidth <= table.clientWidth]") == [
        WIDTHS[-1],
        True,
    ]
    left = {"Generations and downloads": "10", "Benchmark runs": "5", "Verified modules": "20"}
    for name, number in left.items():
        cell = page.get_by_role("row", name=name).get_by_role("cell").first
        expect(cell).to_contain_text(f"{number}of ")
    assert account.post("/v1/api/generate", {"modelUrl": MODEL}).status_code == 200
    for _ in range(2):
        page.reload()
        generations = page.get_by_role("row", name="Generations").get_by_role("cell")
        expect(generations.first).to_contain_text("9of 10 in any minute")
