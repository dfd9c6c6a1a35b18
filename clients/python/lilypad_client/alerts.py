"""Alerts, and the rules that raise them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from lilypad_client import operations
from lilypad_client.operation import camel
from lilypad_client.resource import Emit, Flow, Items, Mode, Resource, operation, stream

if TYPE_CHECKING:
    from typing import Unpack

    from lilypad_client import types
    from lilypad_client.params import NewRuleFields, RuleChangeFields


class Alerts(Resource[Mode]):
    """The account's alerts, open and recovered."""

    @cached_property
    def rules(self) -> AlertRules[Mode]:
        return AlertRules(self._connection)

    @stream
    def list(
        self, *, model_id: str | None = None, open_only: bool = False, page_size: int = 100
    ) -> Items[types.Alert]:
        """Yield alerts of one model or of all models, newest first."""
        before = None
        while True:
            query = {
                "modelId": model_id,
                "openOnly": open_only,
                "limit": page_size,
                "before": before,
            }
            page = yield from self._call(operations.LIST_ALERTS, query=query)
            for alert in page.alerts:
                yield Emit(alert)
            if len(page.alerts) < page_size:
                return
            before = page.alerts[-1].id


class AlertRules(Resource[Mode]):
    """The default rules, which need no set-up, and the account's own."""

    @operation
    def list(self) -> Flow[types.Rules]:
        """List all rules."""
        return self._call(operations.LIST_RULES)

    @operation
    def add(self, **fields: Unpack[NewRuleFields]) -> Flow[types.Rule]:
        """Add a rule: a threshold, a change from the usual values, or silence."""
        return self._call(operations.ADD_RULE, body=camel(fields))

    @operation
    def change(self, id: str, **fields: Unpack[RuleChangeFields]) -> Flow[types.Rule]:
        """Change or mute a rule, including a default rule; omitted fields are unchanged."""
        return self._call(operations.CHANGE_RULE, rule_id=id, body=camel(fields))

    @operation
    def remove(self, id: str) -> Flow[None]:
        """Remove a rule and end its open alerts."""
        return self._call(operations.REMOVE_RULE, rule_id=id)
