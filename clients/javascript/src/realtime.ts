/** Live metrics and alerts over Socket.IO; a broken connection loses none of them. */
import type { LilypadClient } from './client.ts';
import { pause } from './pause.ts';
import { AlertLog } from './alert-log.ts';
import { Feed, type MetricUpdate, refusal, UNAVAILABLE } from './feed.ts';
import type { Alert } from './types.ts';

export interface Subscription {
  modelId: string;
  /** Only these metrics; all if omitted. */
  metrics?: readonly string[] | undefined;
  /** A cursor or a time (RFC 3339) to begin at; now if omitted. */
  since?: string | undefined;
  /** Ends the iteration. */
  signal?: AbortSignal | undefined;
}

/** Pause before the client subscribes again after the service was unavailable. */
const AGAIN_MS = 1_000;

/** Yield a model's updates from now on, or from `since`; end by `break` or the signal. */
export async function* subscribeMetrics(
  client: LilypadClient,
  { modelId, metrics, since, signal }: Subscription,
): AsyncGenerator<MetricUpdate> {
  let position = since;
  let complete = true;
  const feed = new Feed(client, signal);
  const subscribe = () =>
    feed.ask('subscribe_metrics', { modelId, metrics, since: position, cursor: true });
  try {
    for await (const event of feed.events()) {
      if (event.name === 'connect') subscribe();
      else if (event.name === 'gap') {
        position = event.data.since;
        subscribe();
      } else if (event.name === 'acknowledged') {
        const answer = event.data;
        if (answer.status === 'success') {
          position = answer.cursor ?? position;
          complete &&= answer.complete ?? true;
        }
        else if (answer.code !== UNAVAILABLE) throw refusal(answer);
        else {
          await pause(AGAIN_MS, signal).catch(() => {});
          subscribe();
        }
      } else if (event.name === 'metric_update' && event.data.modelId === modelId) {
        position = event.data.cursor ?? position;
        const update = { ...event.data, complete };
        complete = true;
        yield update;
      }
    }
  } finally {
    feed.close();
  }
}

/** Yield the account's alerts, or one model's: each when it is raised, and when it has recovered. */
export async function* watchAlerts(
  client: LilypadClient,
  { modelId, signal }: { modelId?: string; signal?: AbortSignal | undefined } = {},
): AsyncGenerator<Alert> {
  const feed = new Feed(client, signal);
  const log = new AlertLog(client.alerts, modelId, signal);
  try {
    for await (const event of feed.events()) {
      // Alerts are stored before their events are sent, so the list includes those of lost events.
      if (event.name === 'connect' || event.name === 'gap' || event.name === 'alert') {
        yield* await log.news();
      }
    }
  } finally {
    feed.close();
  }
}

export type { MetricUpdate } from './feed.ts';
