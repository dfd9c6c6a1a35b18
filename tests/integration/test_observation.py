"""Metrics and traces of a running stack, as Prometheus and a collector get them."""

import re
import secrets
import urllib.request

from documents.observing import documented, documented_labels, named, queries
from integration.caller import Account
from integration.collector import Collector
from local.stack import Stack


def scraped(text: str) -> set[str]:
    """Return the names of the metrics, also of those without a sample yet."""
    return {*re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE)}


def labelled(text: str) -> dict[str, set[str]]:
    """Map the metrics that have samples to the labels of these."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, flags=re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_a_running_system_has_every_metric_of_the_reference_and_of_the_dashboards(
    measuring_stack: Stack,
) -> None:
    account = Account(measuring_stack.url)
    account.http.get("/v1/api/keys", headers=account.headers)
    account.http.close()
    answers = {}
    for service, [(host, port)] in measuring_stack.probes.items():
        with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
            answers[service] = answer.read().decode()
    assert 'http_route="/v1/api/keys"' in answers["gateway"]
    # No label value comes from a caller.
    assert account.id not in "".join(answers.values())
    own = scraped("\n".join(answers.values()))
    assert {name for name in own if not name.startswith("process_")} == {
        name for name in documented() if not name.startswith("process_")
    }
    labels = documented_labels()
    for name, given in labelled("\n".join(answers.values())).items():
        metric = re.sub(r"_(?:bucket|count|sum|created)$", "", name)
        if metric in labels and not metric.startswith("process_"):
            assert given - {"le"} == labels[metric], name
    edge = measuring_stack.edge.observe("/stats/prometheus")
    for labels in ('envoy_http_conn_manager_prefix="edge"', 'envoy_cluster_name="gateway"'):
        assert labels in edge
    for where, query in queries().items():
        assert named(query) <= own | scraped(edge) | {"up"}, where


def test_a_request_is_one_trace_across_http_the_bus_and_sql(
    measuring_stack: Stack, collector: Collector
) -> None:
    account = Account(measuring_stack.url)
    trace = secrets.token_hex(16)
    # The caller's own trace is continued.
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-00"}
    body = {"modelId": "nobody/knows-it", "days": 1}
    assert account.post("/v1/api/monitor", body, headers=headers).status_code == 404
    account.http.close()
    operation = "rpc.metrics.monitor"
    ends = ("gateway", "POST /monitor"), ("gateway", operation), ("metrics", operation)
    spans = collector.wait_for(trace, *ends, ("metrics", "SELECT"))
    # One span of our own for the request, and none of FastAPI's.
    [root] = [span for _, span in spans if span.name == "POST /monitor"]
    attributes = {a.key: a.value for a in root.attributes}
    assert attributes["http.response.status_code"].int_value == 404
    ids = {span.span_id for _, span in spans}
    assert all(span.parent_span_id in ids for _, span in spans if span is not root)
    statements = [a for _, s in spans for a in s.attributes if a.key == "db.query.text"]
    assert statements
    assert not [a for a in statements if account.id in a.value.string_value]
