"""The PromQL queries of dashboards and alert rules, and the metrics in them."""

import json
import re

import yaml

from documents.tables import ROOT, codes, rows

OBSERVE = ROOT / "deploy" / "observe"
# Suffixes of the three series of a histogram; a counter keeps its `_total`.
SUFFIX = re.compile(r"_(?:bucket|count|sum)$")
WORDS = {"by", "on", "ignoring", "without", "unless", "and", "or", "bool", "offset"}


def queries() -> dict[str, str]:
    """Map each place of a dashboard or alert rule to its PromQL query."""
    expressions = {}
    for file in sorted((OBSERVE / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                where = f"{file.stem}: {panel['title']} {target['refId']}"
                expressions[where] = target["expr"].replace("$__rate_interval", "1m")
    for group in yaml.safe_load((OBSERVE / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            expressions[f"alert {rule['alert']}"] = rule["expr"]
    return expressions


def named(query: str) -> set[str]:
    """Return the metrics that a query reads."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", query)
    text = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", " ", text)
    names = re.findall(r"\b[a-z][a-z0-9_]*\b(?!\s*\()", text)
    return {SUFFIX.sub("", name) for name in names} - WORDS


def labels_read(query: str) -> set[str]:
    """Return the labels that a query selects or groups by."""
    selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
    grouped = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", query)
    return {*selected, *(name.strip() for names in grouped for name in names.split(","))}


def documented_labels() -> dict[str, set[str]]:
    """Map each metric in docs/reference/metrics.md to its labels."""
    table = rows((ROOT / "docs" / "reference" / "metrics.md").read_text())
    return {name: {*codes(row[3])} for row in table for name in codes(row[0])}


def documented() -> set[str]:
    """Return the metric names in docs/reference/metrics.md."""
    return {*documented_labels()}
