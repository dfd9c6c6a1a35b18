"""Alert rules, and the alerts that they raise."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from common.contracts import Event, Input, Message, Rpc
from common.contracts.address import model_id_of
from common.contracts.recording import MetricName, NewModelId

Severity = Literal["info", "warning", "critical"]
Percent = Annotated[float, Field(gt=0, le=10_000)]
AfterS = Annotated[int, Field(ge=10, le=30 * 86_400)]
ForMinutes = Annotated[int, Field(ge=0, le=7 * 1_440)]
FOR_MINUTES = "Time for which the condition must hold before an alert; not for silence rules."
MUTED = "A muted rule raises no alerts, and its open alerts end."


class NewRule(Input):
    """A condition that raises an alert.

    threshold: the metric is `above` or `below` a value.
    change: the newest values are worse than the usual ones by `percent`.
    silence: no sample was recorded for `after` seconds.
    """

    kind: Literal["threshold", "change", "silence"] = Field(
        examples=["threshold"], description="Kind of condition that raises an alert."
    )
    model_id: NewModelId | None = Field(
        None, description="The model; by default all models of the account."
    )
    metric: MetricName | None = Field(
        None, description="The metric; only a silence rule may omit it, to mean any metric."
    )
    above: float | None = Field(
        None, description="Threshold: alert when the metric is above this value."
    )
    below: float | None = Field(
        None, description="Threshold: alert when the metric is below this value."
    )
    percent: Percent | None = Field(
        None,
        description="Change: alert when the metric is worse than its baseline by this percentage."
        " Memory: alert above this percentage of the limit.",
    )
    after: AfterS | None = Field(
        None, description="Silence: alert after this many seconds without a record."
    )
    for_minutes: ForMinutes = Field(0, description=FOR_MINUTES)
    muted: bool = Field(False, description=MUTED)
    severity: Severity = Field("warning", description="Severity of its alerts.")


class RuleChange(Input):
    """Fields of a rule to change; omitted fields stay as they are."""

    above: float | None = Field(
        None, description="Threshold: alert when the metric is above this value."
    )
    below: float | None = Field(
        None, description="Threshold: alert when the metric is below this value."
    )
    percent: Percent | None = Field(
        None,
        description="Change: alert when the metric is worse than its baseline by this percentage."
        " Memory: alert above this percentage of the limit.",
    )
    after: AfterS | None = Field(
        None, description="Silence: alert after this many seconds without a record."
    )
    for_minutes: ForMinutes = Field(0, description=FOR_MINUTES)
    muted: bool = Field(False, description=MUTED)
    severity: Severity = Field("warning", description="Severity of its alerts.")


class Rule(Message):
    """A rule; `origin` is `default` for a rule that needs no set-up and has no `createdAt`."""

    id: str = Field(description="Id of the rule.")
    origin: Literal["default", "own"] = Field(
        description="`default` for rules that need no set-up."
    )
    kind: str = Field(description="Kind of condition: threshold, change or silence.")
    model_id: str | None = Field(description="The model it watches; null for all.")
    metric: str | None = Field(description="The metric it watches; null for any.")
    above: float | None = Field(None, description="Threshold: the value above which it alerts.")
    below: float | None = Field(None, description="Threshold: the value below which it alerts.")
    percent: float | None = Field(
        None,
        description="Change: percent by which the metric must be worse than its baseline."
        " Memory: percent of the limit above which it alerts.",
    )
    after: int | None = Field(None, description="Silence: seconds without a record.")
    for_minutes: int = Field(0, description=FOR_MINUTES)
    muted: bool = Field(False, description=MUTED)
    severity: Severity = Field(description="Severity of its alerts.")
    created_at: datetime | None = Field(
        None, description="Time at which it was added; null for default rules."
    )


class Rules(Message):
    rules: list[Rule] = Field(description="Default rules first, then the account's own.")


class RulesRequest(Message):
    """Request for the account's rules."""


class RuleRequest(Message):
    id: str


class ChangeRequest(RuleRequest):
    """Request to change a rule; `changes` holds the fields that the caller sent, by public name."""

    changes: dict[str, Any]


class RuleRemoved(Message):
    """Confirmation that a rule was deleted."""


class Alert(Message):
    """An alert: raised once, recovered once."""

    id: str = Field(description="Id of the alert.")
    rule_id: str | None = Field(
        None, description="The rule that raised it; null once the rule is deleted."
    )
    model_id: str = Field(description="The model it is about.")
    type: str = Field(description="Type of the incident, for programs.")
    message: str = Field(description="The incident in one sentence.")
    severity: Severity = Field(description="Severity of the incident.")
    metric: str | None = Field(description="The metric it is about; null for silence.")
    raised_at: datetime = Field(description="Time at which it was raised.")
    recovered_at: datetime | None = Field(
        description="Time of its recovery; null while it is open."
    )
    recovery: str | None = Field(None, description="The message of the recovery.")


class AlertsRequest(Message):
    """Request for alerts, newest first."""

    model_id: Annotated[str, AfterValidator(model_id_of)] | None = Field(
        None, description="The model; by default all models.", examples=["openai/gpt2"]
    )
    open_only: bool = Field(False, description="Only alerts that have not recovered.")
    before: str | None = Field(
        None,
        description="The id of the last alert on the previous page.",
        examples=["alert_4f1d0c2a9b8e7d6c5b4a3928"],
    )
    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Alerts per page.")


class Alerts(Message):
    alerts: list[Alert] = Field(description="One page of alerts.")


class AlertEvent(Message):
    """An alert, or its recovery, as subscribers of the socket receive it.

    A recovery has its alert's type with `_recovered` appended. `at`: when the
    alert was raised, or recovered.
    """

    id: str
    rule_id: str | None = None
    model_id: str
    type: str
    message: str
    severity: Severity
    at: datetime | None = None


LIST_ALERTS = Rpc("rpc.metrics.list_alerts", AlertsRequest, Alerts, timeout=1.8, repeatable=True)
LIST_RULES = Rpc("rpc.metrics.list_rules", RulesRequest, Rules, timeout=1.8, repeatable=True)
ADD_RULE = Rpc("rpc.metrics.add_rule", NewRule, Rule, timeout=1.8)
CHANGE_RULE = Rpc("rpc.metrics.change_rule", ChangeRequest, Rule, timeout=1.8)
REMOVE_RULE = Rpc("rpc.metrics.remove_rule", RuleRequest, RuleRemoved, timeout=1.8)

# The last token is the model's id. A recovery travels here as well.
ALERT_RAISED = Event("event.alert.raised", AlertEvent)
