/** Changes in an account's list of alerts since the last check. */
import type { Alerts } from './alerts.ts';
import type { Alert } from './types.ts';

const PAGE_SIZE = 100;

export class AlertLog {
  /** Whether each known alert had recovered at the last check; undefined before the first. */
  private known: Map<string, boolean> | undefined;

  constructor(
    private readonly alerts: Alerts,
    private readonly modelId?: string | undefined,
    private readonly signal?: AbortSignal | undefined,
  ) {}

  /** List alerts raised or recovered since the last check, oldest first. */
  async news(): Promise<Alert[]> {
    const { modelId, signal } = this;
    const query = { modelId, signal, pageSize: PAGE_SIZE };
    const found = new Map<string, boolean>();
    for await (const { id } of this.alerts.list({ ...query, openOnly: true })) found.set(id, false);
    const known = this.known;
    // Alerts that were open at the last check and are not now: the list below has their end.
    const ended = new Set([...(known ?? [])].filter(([id, over]) => !over && !found.has(id)).map(([id]) => id));
    const news: Alert[] = [];
    let index = 0;
    let familiar = false;
    let old = false;
    for await (const alert of this.alerts.list(query)) {
      if (index > 0 && index % PAGE_SIZE === 0) {
        old ||= familiar || !known;
        if (old && !ended.size) break;
      }
      index += 1;
      const over = alert.recoveredAt !== null;
      const before = known?.get(alert.id);
      familiar ||= before !== undefined;
      ended.delete(alert.id);
      if (!known || (before === undefined && old)) {
        if (!known) found.set(alert.id, over);
        continue;
      }
      if (before !== over) news.push(alert);
      found.set(alert.id, over);
    }
    this.known = found;
    return news.reverse();
  }
}
