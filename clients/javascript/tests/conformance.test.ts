/** The table of cases that every client follows. */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ConnectionError, LilypadClient, StatusError } from '../src/index.ts';
import { pause } from '../src/pause.ts';
import { Service } from './scripted.ts';

vi.mock('../src/pause.ts', () => ({ pause: vi.fn(async () => {}) }));

interface Case {
  name: string;
  call: 'record' | 'monitor' | 'add_rule';
  timeout?: number;
  maxRetries?: number;
  answers: {
    status: number;
    code?: number;
    headers?: Record<string, string>;
    reset?: boolean;
    half?: boolean;
  }[];
  attempts: number;
  /** Bounds of each pause, in seconds. */
  waits: [number, number][];
  error?: { code?: number; retryAfter?: number; connection?: boolean };
}

const table = new URL('../../conformance/retries.json', import.meta.url);
const cases: Case[] = JSON.parse(readFileSync(table, 'utf8'));

let service: Service;
beforeEach(async () => {
  service = await Service.start();
  vi.mocked(pause).mockClear();
});
afterEach(() => service.stop());

test.each(cases)('$name', async (row) => {
  for (const answer of row.answers) {
    if (answer.code) service.refuse(answer.status, answer.code, answer.headers);
    else service.answer({ status: 'success' }, answer);
  }
  const client = new LilypadClient({
    apiKey: 'k',
    baseUrl: service.url,
    timeoutMs: (row.timeout ?? 60) * 1000,
    maxRetries: row.maxRetries,
  });

  const metrics = { latency: 1 };
  const called = call(client, row.call, metrics);
  metrics.latency = 2; // changed after the call: the request that is sent stays the same
  const error = await called.then(
    () => undefined,
    (reason: unknown) => reason,
  );

  if (!row.error) expect(error).toBeUndefined();
  else if (row.error.connection) expect(error).toBeInstanceOf(ConnectionError);
  else {
    expect(error).toBeInstanceOf(StatusError);
    const { code, retryAfterMs } = error as StatusError;
    expect(code).toBe(row.error.code);
    if (row.error.retryAfter) expect(retryAfterMs).toBe(row.error.retryAfter * 1000);
  }
  expect(service.asked).toHaveLength(row.attempts);
  const waits = vi.mocked(pause).mock.calls.map(([milliseconds]) => milliseconds / 1000);
  expect(waits).toHaveLength(row.waits.length);
  for (const [index, [least, most]] of row.waits.entries()) {
    expect(waits[index]).toBeGreaterThanOrEqual(least);
    expect(waits[index]).toBeLessThanOrEqual(most);
  }
  const keys = new Set(service.asked.map(({ headers }) => headers['idempotency-key']));
  expect(keys.size).toBe(1);
  expect(keys.has(undefined)).toBe(row.call !== 'record');
  expect(new Set(service.asked.map(({ body }) => body)).size).toBe(1);
  if (row.call === 'record') expect(JSON.parse(service.asked[0]!.body).metrics.latency).toBe(1);
});

function call(client: LilypadClient, name: Case['call'], metrics: { latency: number }) {
  if (name === 'record') return client.metrics.record({ modelId: 'a/b', metrics });
  if (name === 'monitor') return client.getMetrics({ modelId: 'a/b' });
  return client.alerts.rules.add({ kind: 'threshold', metric: 'latency', above: 1 });
}

test('an outage exhausts the retry budget and successes restore it', async () => {
  const client = new LilypadClient({ apiKey: 'k', baseUrl: service.url });
  const sent = async () => {
    const before = service.asked.length;
    await client.getMetrics({ modelId: 'a/b' }).catch(() => {});
    return service.asked.length - before;
  };
  service.answers.push(...Array.from({ length: 18 }, () => ({ reset: true })));
  const outage = [];
  for (let call = 0; call < 8; call += 1) outage.push(await sent());
  expect(outage).toEqual([3, 3, 3, 3, 3, 1, 1, 1]);
  for (let good = 0; good < 10; good += 1) {
    service.answer({});
    await sent();
  }
  service.answers.push({ reset: true }, { reset: true });
  expect(await sent()).toBe(2);
});
