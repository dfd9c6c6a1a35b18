"""Figures and lists of the documentation, compared with the code and the benchmarks' results."""

import ast
import json
import re
from typing import Any

import pytest
import yaml

from common.contracts import reading, recording
from common.contracts.benchmarking import MAX_BATCH_SIZE, MAX_SIZES, BenchmarkRequest
from common.contracts.history import HistoryRequest
from common.errors import ServiceError
from documents.tables import ROOT, codes, rows, sections
from documents.test_openapi import Nothing
from documents.test_settings import in_table
from gateway import accounts, bodies, capacity, keyring, keys, passwords, recovery, routes
from local.envoy import (
    BATCH_BURST_S,
    FLOOD_LIMIT,
    LARGE_BURST_S,
    REQUESTS_PER_BATCH,
    REQUESTS_PER_LARGE_BODY,
)
from metrics import descriptions, history, rules, window
from realtime import client, replay, slots, sockets, subscriptions, websocket
from webhooks import deliveries, post
from webhooks.schedule import PAUSES_S

DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
# A benchmark on a quiet machine repeats its figures more closely than this.
TOLERANCE = 0.2
# Limits of docs/reference/limits.md that no setting of a service changes.
LIMITS = {
    "concurrent sockets": slots.MAX_PER_ACCOUNT,
    "valid password-reset links": recovery.MAX_LINKS,
    "held answers (`Prefer: wait`, or a caller waiting for a run)": capacity.MAX_HELD_PER_ACCOUNT,
    "held answers": capacity.MAX_HELD,
    "keys": keyring.MAX_KEYS,
    "alert rules of your own": rules.MAX_RULES,
    "requests of any kind": FLOOD_LIMIT,
    "batches of records": FLOOD_LIMIT // REQUESTS_PER_BATCH,
    "other bodies of more than 10,000 bytes": FLOOD_LIMIT // REQUESTS_PER_LARGE_BODY,
}
# Other pages and the numbers in their sentences.
STATED: list[tuple[str, str, list[float]]] = [
    ("how-to/watch.md", r"subscribe to (\d+) models", [subscriptions.MAX_MODELS]),
    ("how-to/watch.md", r"sockets per account \| (\d+)", [slots.MAX_PER_ACCOUNT]),
    ("how-to/watch.md", r"(\d+) a second, (\d+) in a burst", [client.RATE_PER_S, client.BURST]),
    ("how-to/watch.md", r"size \| (\d+) KiB", [websocket.MAX_FRAME_BYTES / 1024]),
    ("how-to/watch.md", r"reading \| (\d+) seconds", [client.CLIENT_READ_TIMEOUT_S]),
    ("how-to/watch.md", r"connecting \| (\d+) seconds", [sockets.TOKEN_TIMEOUT_S]),
    ("how-to/watch.md", r"at most (\d+) events a second", [round(1 / client.PERIOD_S)]),
    ("how-to/watch.md", r"or ([\d,]+) alerts\)", [replay.MAX_ALERTS]),
    ("how-to/watch.md", r"more than ([\d,]+) moments \(or ([\d,]+) values",
     [HistoryRequest.model_fields["limit"].default, history.MAX_SAMPLES]),
    ("how-to/keys.md", r"to (\d+) a minute per account\D*(\d+) a minute\D*(\d+) an hour",
     [policy.limit for policy in accounts.policies(10)[:3]]),
    ("how-to/keys.md", r"beyond (\d+) waiting on a replica", [passwords.MAX_WAITING]),
    ("how-to/benchmark.md", r"up to (\d+) sizes from 1 to (\d+)", [MAX_SIZES, MAX_BATCH_SIZE]),
    ("how-to/webhooks.md", r"after (\d+) seconds, (\d+) and (\d+) \D*(\d+), (\d+), (\d+) and (\d+)",
     [*PAUSES_S[:1], *(s / 60 for s in PAUSES_S[1:3]), *(s / 3600 for s in PAUSES_S[3:])]),
    ("how-to/webhooks.md", r"status within (\d+) seconds", [post.TIMEOUT_S]),
    ("how-to/webhooks.md", r"most (\d+) concurrent", [deliveries.MAX_AT_ONCE_PER_WEBHOOK]),
    ("how-to/monitor.md", r"up to ([\d,]+) records with ([\d,]+) values",
     [recording.MAX_RECORDS, recording.MAX_SAMPLES]),
    ("how-to/monitor.md", r"up to (\d+) in a record", [recording.MAX_METRICS]),
    ("how-to/monitor.md", r"at most ([\d,]+) samples;", [reading.MAX_DELETED_SAMPLES]),
    ("how-to/monitor.md", r"up to ([\d,]+) samples \(`limit`", [reading.MAX_PAGE_SAMPLES]),
    ("how-to/monitor.md", r"at most (\d+) points", [window.MAX_POINTS]),
    ("how-to/monitor.md", r"(\d+) seconds, if it lost the bus",
     [descriptions.DESCRIPTIONS_LIFETIME_S]),
    ("how-to/monitor.md", r"least (\d+) times within a day", [rules.MIN_REGULAR_SAMPLES]),
    ("how-to/monitor.md", r"the (\d+) to ([\d,]+) values before",
     [rules.MIN_BASELINE_VALUES, rules.MAX_BASELINE_VALUES]),
    ("reference/errors.md", r"more than (\d+) keys, .* ([\d,]+) values",
     [bodies.MAX_OBJECT_KEYS, bodies.MAX_COMMAS]),
    ("reference/statistics.md", r"up to ([\d,]+) in the window", [window.MAX_EXACT]),
]  # fmt: skip
# Figures of these pages: the file and the name of each result.
MEASURED_ON = (
    PAGES["scaling.md"] + PAGES["reference/statistics.md"] + (ROOT / "README.md").read_text()
)
MEASURED = {
    r"([\d,]+) on two cores, one at a time": ("monitoring", "v1, one at a time, 64 clients"),
    r"([\d,]+) on two cores, in batches": ("monitoring", "v2, batches of 1000, 8 clients"),
    r"which stores ([\d,]+) a second": ("monitoring", "v2, batches of 1000, 8 clients"),
    r"([\d,]+) ms each, 30 days": (
        "monitoring", "/monitor of 30 days, 10 million samples, median"
    ),
    r"([\d.]+) % of the steps": ("advice", "step: found, with its times"),
    r"([\d.]+) % of the slopes": ("advice", "slope: found, with its times"),
    r"([\d.]+) % of the\s+incidents": ("advice", "incident: found, with its times"),
    r"([\d.]+) % of the\s+curves": ("advice", "curve: false statements"),
    r"([\d,]+) ms for 30 days of": (
        "monitoring", "/monitor of 30 days, 10 million samples, median"
    ),
    r"At ([\d,]+) ms each": ("monitoring", "/monitor of 30 days, 10 million samples, median"),
    r"([\d,]+) KiB of memory each": ("realtime", "memory of a connection"),
    r"([\d,]+) from one process \|\n\| mod": ("realtime", "one process"),
    r"([\d,]+) from one process, none": ("generation", "made anew, one process"),
    r"simulation\]\S+ below \| ([\d,]+)": ("simulate", "100 models, each measured once: cost"),
    r"below \| [\d,]+ \| ([\d,]+)": ("simulate", "10,000 models, each measured once: cost"),
    r"below \| [\d,]+ \| [\d,]+ \| ([\d,]+)": (
        "simulate", "1,000,000 models, each measured once: cost"
    ),
}  # fmt: skip


def number(text: str) -> float:
    """Return the first number of a text, in which commas separate thousands."""
    [found, *_] = NUMBER.findall(text)
    return float(found.replace(",", ""))


def test_every_limit_that_is_a_setting_is_stated_with_its_default() -> None:
    defaults = {variable: default for _, variable, default in in_table()}
    stated = {}
    for what, limit, _, setting in rows(PAGES["reference/limits.md"]):
        [variable, *_] = codes(setting) or [""]
        if variable in defaults:
            assert number(limit) == number(defaults[variable]), variable
        else:
            stated[what] = number(limit)
    assert stated == LIMITS
    for cost, seconds in ((REQUESTS_PER_BATCH, BATCH_BURST_S),
                          (REQUESTS_PER_LARGE_BODY, LARGE_BURST_S)):  # fmt: skip
        assert f"{FLOOD_LIMIT // cost * seconds} at once" in PAGES["reference/limits.md"]


@pytest.mark.parametrize(("page", "pattern", "values"), STATED)
def test_a_number_that_a_page_states_is_that_of_the_code(
    page: str, pattern: str, values: list[float]
) -> None:
    found = re.search(pattern, " ".join(PAGES[page].split()))
    assert found, f"{page} has no {pattern}"
    assert [number(text) for text in found.groups()] == values


@pytest.mark.parametrize("pattern", MEASURED)
def test_a_documented_figure_is_that_of_the_latest_benchmark_result(pattern: str) -> None:
    file, name = MEASURED[pattern]
    results = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text())
    measured = next(figure["value"] for figure in results["figures"] if figure["name"] == name)
    found = re.search(pattern, MEASURED_ON)
    assert found, pattern
    assert number(found[1]) == pytest.approx(measured, rel=TOLERANCE)


def requested(quantity: str, units: dict[str, float]) -> float:
    """Return how much of a resource the services, two replicas each, and the bus reserve."""
    total = 0.0
    for path in (ROOT / "deploy" / "k8s" / "base").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            if not document or document.get("kind") not in {"Deployment", "StatefulSet"}:
                continue
            for container in document["spec"]["template"]["spec"]["containers"]:
                text = str(container["resources"]["requests"][quantity])
                unit = text.lstrip("0123456789.")
                amount = float(text.removesuffix(unit)) * units[unit]
                total += amount * document["spec"].get("replicas", 2)
    return total


def test_the_scaling_page_states_what_an_idle_cluster_reserves() -> None:
    cores = requested("cpu", {"": 1, "m": 1e-3})
    gibibytes = requested("memory", {"Mi": 1 / 1024, "Gi": 1})
    assert f"reserve {cores:g} cores and {gibibytes:g} GiB" in PAGES["scaling.md"]


def audited() -> set[str]:
    """Return the acts that the gateway records, except those that it names by a variable."""
    acts = {"not_found", "not_allowed"}  # values of `door.REFUSALS`
    for path in (ROOT / "services" / "gateway" / "gateway").glob("**/*.py"):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in {"record", "note", "begin"}:
                words = [leaf for part in node.args for leaf in ast.walk(part)]
                texts = [word.value for word in words if isinstance(word, ast.Constant)]
                acts |= {
                    str(text)
                    for text in texts
                    if re.fullmatch(r"[a-z]+_[a-z_]+|registered", str(text))
                }
    return acts


def test_the_page_of_keys_lists_every_act_of_the_audit_log() -> None:
    table = sections(DOCS / "how-to" / "keys.md")["What is written down"]
    listed = {name for row in rows(table) for name in codes(row[1])}
    assert len(audited()) > 25
    assert audited() - listed == set()
    source = "\n".join(
        path.read_text() for path in (ROOT / "services/gateway/gateway").glob("**/*.py")
    )
    assert {act for act in listed if f'"{act}"' not in source} == set()


def test_the_page_of_keys_lists_every_scope() -> None:
    table = sections(DOCS / "how-to" / "keys.md")["Scopes"]
    assert [codes(row[0])[0] for row in rows(table)] == list(keys.SCOPES)


def test_the_page_of_errors_lists_every_code_with_its_usual_status() -> None:
    meanings = PAGES["reference/errors.md"].partition("## Retries")[0]
    table = {int(row[0]): row[1] for row in rows(meanings)}
    kinds = {ServiceError, *ServiceError.__subclasses__()}
    assert table.keys() == {kind.code for kind in kinds}
    assert [kind for kind in kinds if str(kind.status) not in table[kind.code]] == []
    document = json.loads((ROOT / "clients" / "openapi.json").read_text())
    for item in document["paths"].values():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    error = answer["content"]["application/json"]["example"]["error"]
                    assert status in table[error["code"]], error


def test_the_page_of_errors_lists_every_header_that_may_be_sent_only_once() -> None:
    [sentence] = re.findall(
        r"Single-value headers.*?ignored\.", PAGES["reference/errors.md"], re.DOTALL
    )
    once, _, joined = sentence.partition("For ")
    assert {name.lower().encode() for name in codes(once)} == bodies.SINGLE_HEADERS
    assert {name.lower().encode() for name in codes(joined)} == bodies.JOINED_HEADERS


def test_the_page_of_errors_lists_every_address_that_takes_an_idempotency_key() -> None:
    [sentence] = re.findall(r"`POST [^.]*accept an `Idempotency-Key`", PAGES["reference/errors.md"])
    nothing: Any = Nothing()
    endpoints = routes.endpoints(nothing, nothing, nothing, nothing)
    assert {name.removeprefix("POST ") for name in codes(sentence)[:-1]} == {
        endpoint.path for endpoint in endpoints if endpoint.idempotent
    }


def test_the_page_of_benchmarks_lists_every_field_of_a_request() -> None:
    table = sections(DOCS / "how-to" / "benchmark.md")["Ask for what you need"]
    listed = {name for row in rows(table) for name in codes(row[0])}
    fields = {field.alias or name for name, field in BenchmarkRequest.model_fields.items()}
    assert listed == fields - {"modelId"}
