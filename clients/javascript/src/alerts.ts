/** Alerts, and the rules that raise them. */
import type { Call } from './call.ts';
import type { Connection } from './connection.ts';
import type { Data, CallOptions } from './request.ts';
import type { Alert, NewRule, Rule, RuleChange } from './types.ts';

/** The account's alerts, open and recovered. */
export class Alerts {
  readonly rules: AlertRules;

  constructor(private readonly connection: Connection) {
    this.rules = new AlertRules(connection);
  }

  /** Yield alerts of one model or of all models, newest first. */
  async *list({
    modelId,
    openOnly,
    pageSize = 100,
    ...options
  }: CallOptions & {
    modelId?: string;
    openOnly?: boolean;
    pageSize?: number;
  } = {}): AsyncGenerator<Alert> {
    for (let before: string | undefined; ; ) {
      const query = { modelId, openOnly, limit: pageSize, before };
      const { alerts } = await this.connection.call('list_alerts', { query, ...options });
      yield* alerts;
      if (alerts.length < pageSize) return;
      before = alerts.at(-1)?.id;
    }
  }
}

/** The default rules, which need no set-up, and the account's own. */
export class AlertRules {
  constructor(private readonly connection: Connection) {}

  /** List all rules. */
  list(options: CallOptions = {}): Call<Data<'list_rules'>> {
    return this.connection.call('list_rules', options);
  }

  /** Add a rule: a threshold, a change from the usual values, or silence. */
  add(rule: NewRule, options: CallOptions = {}): Call<Rule> {
    return this.connection.call('add_rule', { body: rule, ...options });
  }

  /** Change or mute a rule, including a default rule; omitted fields are unchanged. */
  change(id: string, change: Partial<RuleChange>, options: CallOptions = {}): Call<Rule> {
    return this.connection.call('change_rule', { path: { rule_id: id }, body: change, ...options });
  }

  /** Remove a rule and end its open alerts. */
  remove(id: string, options: CallOptions = {}): Call<void> {
    return this.connection.call('remove_rule', { path: { rule_id: id }, ...options });
  }
}
