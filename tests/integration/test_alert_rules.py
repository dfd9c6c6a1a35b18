"""Alert rules through the edge: duration, changes, muting."""

from typing import Any

from integration.caller import Account
from integration.load import wait_until
from integration.monitored import MonitoredStack, at, record

RULES = "/v1/api/alerts/rules"


def test_an_alert_is_raised_after_its_rules_duration_and_ends_when_the_rule_is_muted(
    monitored_stack: MonitoredStack,
) -> None:
    account = Account(monitored_stack.url)

    def add(**fields: Any) -> str:
        rule = {"kind": "threshold", "metric": "queue_depth", "above": 10, **fields}
        answer = account.post(RULES, rule)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["data"]["id"])

    def change(id: str, **fields: Any) -> None:
        changed = account.http.patch(f"{RULES}/{id}", json=fields, headers=account.headers)
        assert changed.status_code == 200, changed.text

    def is_open() -> dict[tuple[str, str], bool]:
        body = account.http.get("/v1/api/alerts", headers=account.headers).json()["data"]
        return {
            (alert["ruleId"], alert["modelId"]): alert["recoveredAt"] is None
            for alert in body["alerts"]
        }

    at_once, patient = add(), add(above=20)
    change(patient, forMinutes=5, above=15)
    record(account, modelId="acme/pump", timestamp=at(minutes=20), metrics={"queue_depth": 18})
    wait_until(lambda: is_open() == {(at_once, "acme/pump"): True})
    record(account, modelId="acme/pump", timestamp=at(minutes=10), metrics={"queue_depth": 18})
    both = {(at_once, "acme/pump"): True, (patient, "acme/pump"): True}
    wait_until(lambda: is_open() == both)
    change(patient, muted=True)
    wait_until(lambda: is_open() == both | {(patient, "acme/pump"): False})
    account.http.close()
