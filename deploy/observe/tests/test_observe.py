"""Alert rules and dashboards: parsed by Prometheus's own tool, and each alert seen to fire."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from documents.observing import (
    OBSERVE,
    documented,
    documented_labels,
    labels_read,
    named,
    queries,
)

# Prometheus's own metrics of each scrape, and Envoy's, which the integration tests cover.
FOREIGN_LABELS = re.compile(r"le|job|instance|envoy_\w+")
FOREIGN_METRICS = re.compile(r"up|process_\w+|envoy_\w+")


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: Debian's package `prometheus` has it")
    done = subprocess.run(["promtool", *arguments], cwd=OBSERVE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_in_its_example_and_none_in_a_healthy_system() -> None:
    promtool("check", "rules", "alerts.yaml")
    promtool("test", "rules", "alerts.test.yaml")
    fired = re.findall(r'ALERTS\{alertname="(\w+)"', (OBSERVE / "alerts.test.yaml").read_text())
    alerts = [name.split()[1] for name in queries() if name.startswith("alert ")]
    assert fired == alerts


def test_prometheus_accepts_the_compose_configuration() -> None:
    promtool("check", "config", "prometheus.compose.yaml")


def test_prometheus_accepts_the_cluster_configuration(tmp_path: Path) -> None:
    text = (OBSERVE / "prometheus.kubernetes.yaml").read_text()
    # Debian's promtool lacks Kubernetes discovery, so that is cut out, and the rest is checked.
    text, count = re.subn("kubernetes_sd_configs: .+", "static_configs: []", text)
    assert count == 1
    file = tmp_path / "prometheus.yaml"
    file.write_text(text.replace("rule_files: [", f"rule_files: [{OBSERVE}/"))
    promtool("check", "config", file)


def test_every_query_of_a_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries().values())]
    assert len(rules) > 30
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", file)


def test_every_metric_of_a_query_is_in_the_reference() -> None:
    known = documented()
    assert len(known) > 20
    for where, query in queries().items():
        names = named(query)
        assert names, where
        unknown = {name for name in names - known if not FOREIGN_METRICS.fullmatch(name)}
        assert not unknown, where


def test_every_label_of_a_query_is_one_of_its_metrics() -> None:
    labels = documented_labels()
    for where, query in queries().items():
        known = set().union(*(labels.get(name, set()) for name in named(query)))
        read = {label for label in labels_read(query) if not FOREIGN_LABELS.fullmatch(label)}
        # Prometheus would find nothing, or add up what should be apart, without an error.
        assert read <= known, f"{where}: no metric of its has the labels {sorted(read - known)}"
