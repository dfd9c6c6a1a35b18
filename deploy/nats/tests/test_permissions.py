"""The permissions in nats.conf, compared with the subjects that each service's code uses.

Contracts are found where the code refers to them, so that a subject that is not used any more, or a
wildcard that covers more than the contracts, fails as well as one that is missing.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.contracts import Event, Job, Rpc
from common.jobs import DEAD, STREAM
from common.pending import EVERY_REPLICA
from gateway.counter_store import OLD_STREAM
from generator import shared
from local.nats import CONFIGURATION, USERS
from realtime.slots import BUCKET

ROOT = Path(__file__).parents[3]
SERVICES = tuple(user for user in USERS if user != "supervisor")
STREAMS = {
    "gateway": {"LIMITS_60", "LIMITS_3600"},
    "generator": {shared.STREAM},
    "benchmarker": {STREAM, DEAD},
    "realtime": {f"KV_{BUCKET}"},
}
# Subjects that a service's own streams record, and replicas' questions to each other.
OWN = {
    "gateway": {"limit.>"},
    "generator": {f"{shared.SUBJECT}.>"},
    "realtime": {f"$KV.{BUCKET}.>", "rpc.realtime.alive.*"},
}
SUBSCRIBES = {"listens", "listen", "subscribe"}
PUBLISHES = {"publish", "_publish"}

Tokens = Iterator[str]


@dataclass
class Subjects:
    """Subjects that a service publishes, requests among them, and those it subscribes to."""

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)


def parse(tokens: Tokens, end: str) -> dict[str, Any] | list[Any]:
    """Read a map or a list of the NATS configuration language, up to its closing bracket."""
    items: list[Any] = []
    names: dict[str, Any] = {}
    for token in tokens:
        if token == end:
            break
        if end == "]":
            items.append(parse_value(token, tokens))
        else:
            names[token] = parse_value(next(tokens), tokens)
    return items if end == "]" else names


def parse_value(token: str, tokens: Tokens) -> Any:
    closing = {"{": "}", "[": "]"}.get(token)
    return parse(tokens, closing) if closing else token.strip('"')


@pytest.fixture(scope="module")
def users() -> dict[str, dict[str, Any]]:
    """The permissions of each user."""
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in CONFIGURATION.read_text().splitlines())
    tokens = re.findall(r'"[^"]*"|[{}\[\]]|[^\s:,{}\[\]"]+', "\n".join(lines))
    configuration: Any = parse(iter([*tokens, ""]), "")
    return {u["user"]: u["permissions"] for u in configuration["accounts"]["LILYPAD"]["users"]}


def permitted(permissions: dict[str, Any], way: str) -> set[str]:
    allowed = permissions[way]["allow"]
    return {allowed} if isinstance(allowed, str) else set(allowed)


def files(service: str) -> list[Path]:
    package = ROOT / "services" / service / service
    worker = ROOT / "services" / "benchmarker" / "benchmarker" / "worker"
    if service == "worker":
        return [*worker.rglob("*.py")]
    return [
        file
        for file in package.rglob("*.py")
        if not file.is_relative_to(worker) and not {"node_modules", "templates"} & {*file.parts}
    ]


def contracts(tree: ast.Module) -> dict[str, Any]:
    """Return the contracts that a module imports, by the names under which it does."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("common.contracts"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                found[name.asname or name.name] = getattr(module, name.name, None)
    return {name: value for name, value in found.items() if isinstance(value, Rpc | Event | Job)}


def functions_given(tree: ast.Module, contract: str) -> set[str]:
    """Return the names of the functions that are called with a contract."""
    return {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
        if any(isinstance(given, ast.Name) and given.id == contract for given in node.args)
    }


def used(service: str) -> Subjects:
    """Return the subjects of the contracts that a service's code refers to."""
    subjects = Subjects(publish=set(OWN.get(service, ())))
    for file in files(service):
        tree = ast.parse(file.read_text())
        for name, contract in contracts(tree).items():
            if isinstance(contract, Rpc):
                if contract.service == service:
                    subjects.subscribe.add(f"rpc.{service}.>")
                else:
                    subjects.publish.add(contract.subject)
                    if contract.repeatable:
                        subjects.publish.add(f"{contract.subject}.{EVERY_REPLICA}")
            elif isinstance(contract, Job):
                start = "job" if contract.subject.split(".")[1] == service else "dead"
                subjects.publish.add(f"{start}.{contract.subject.split('.')[1]}.>")
            else:
                functions = functions_given(tree, name)
                assert functions & (SUBSCRIBES | PUBLISHES), f"{file}: unknown use of {name}"
                if functions & SUBSCRIBES:
                    subjects.subscribe.add(f"{contract.subject}.>")
                if functions & PUBLISHES:
                    subjects.publish.add(f"{contract.subject}.>")
    if any(subject.startswith(f"rpc.{service}.") for subject in OWN.get(service, ())):
        subjects.subscribe.add(f"rpc.{service}.>")
    discovery = {f"$SRV.*{address}" for address in ("", f".{service}", f".{service}.*")}
    subjects.subscribe |= discovery | {f"_INBOX.{service}.>"}
    return subjects


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_publish_and_subscribe_to_what_its_code_uses_and_nothing_else(
    users: dict[str, dict[str, Any]], service: str
) -> None:
    expected = used(service)
    allowed = permitted(users[service], "publish")
    assert {subject for subject in allowed if not subject.startswith("$JS.")} == expected.publish
    assert permitted(users[service], "subscribe") == expected.subscribe


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_manages_its_own_streams_alone(
    users: dict[str, dict[str, Any]], service: str
) -> None:
    own = STREAMS.get(service, set())
    allowed = {s for s in permitted(users[service], "publish") if s.startswith("$JS.")}
    if service == "worker":
        assert allowed == {f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.>", f"$JS.ACK.{STREAM}.>"}
        return
    if service == "gateway":
        allowed.remove(f"$JS.API.STREAM.DELETE.{OLD_STREAM}")
    if service == "benchmarker":
        # Archives of dead letters are named by their time: all streams but others' are permitted.
        archives = {f"$JS.API.STREAM.{verb}.*" for verb in ("CREATE", "UPDATE", "INFO", "DELETE")}
        others = set().union(*STREAMS.values()) - own
        assert archives <= allowed
        assert set(users[service]["publish"]["deny"]) == {f"$JS.API.STREAM.*.{s}" for s in others}
        allowed -= archives
    managed = re.compile(
        r"\$JS\.API\.(?:STREAM\.[A-Z*]+|STREAM\.MSG\.(?:GET|DELETE)|DIRECT\.GET"
        r"|CONSUMER\.DURABLE\.CREATE)\.(\w+)(?:\.[>*])?"
    )
    for subject in allowed:
        named = managed.fullmatch(subject)
        assert named, subject
        assert named[1] in own, subject
    assert {named[1] for subject in allowed if (named := managed.fullmatch(subject))} == own
