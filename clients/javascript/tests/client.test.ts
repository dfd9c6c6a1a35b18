import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { inspect } from 'node:util';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import * as lilypad from '../src/index.ts';
import { ConnectionError, errorsByCode, LilypadClient, LilypadError, type Run } from '../src/index.ts';
import { operations } from '../src/operations.ts';
import { Service } from './scripted.ts';

const MODULE = {
  files: { Dockerfile: 'FROM x\n' },
  validation: { status: 'passed', errors: [], checks: [] },
  model: { id: 'a/b' },
};
const RUN = { id: 'bench_1', modelId: 'a/b', state: 'queued', progress: { done: 0, total: 4 } };
const OVER = { ...RUN, state: 'succeeded', progress: { done: 4, total: 4 } };

let service: Service;
let client: LilypadClient;
beforeEach(async () => {
  service = await Service.start();
  client = new LilypadClient({ apiKey: 'lmg_live_x', baseUrl: service.url });
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
  service.stop();
});

test('a module maps its files and names its model', async () => {
  service.answer(MODULE);
  const request = { modelUrl: 'a/b', options: { batchSize: 4 }, revision: 'v1' };
  const module = await client.generateModule(request);
  expect(module.files['Dockerfile']).toBe('FROM x\n');
  const [asked] = service.asked;
  expect(asked?.path).toBe('/v1/api/generate');
  expect(asked?.headers['authorization']).toBe('Bearer lmg_live_x');
  expect(JSON.parse(asked?.body ?? '')).toEqual(request);
});

test('samples are read page by page, and deleted within a span', async () => {
  const page = { modelId: 'a/b', metric: 'latency', unit: 'ms' };
  const sample = { timestamp: '2026-01-31T12:00:00.000001Z', value: 0.1 + 0.2 };
  service.answer({ ...page, samples: [sample], next: '42' });
  service.answer({ ...page, samples: [sample], next: null });
  service.answer({ deleted: 2 });
  const from = new Date('2026-01-31T12:00:00Z');
  const found = [];
  for await (const one of client.metrics.samples({ modelId: 'a/b', metric: 'latency', from })) {
    found.push(one);
  }
  expect(found).toEqual([sample, sample]);
  expect((await client.metrics.deleteSamples({ modelId: 'a/b', from })).deleted).toBe(2);
  const queries = service.asked.map(({ path }) => new URL(path, service.url).searchParams);
  expect(queries.map((query) => query.get('cursor'))).toEqual([null, '42', null]);
  expect(queries[2]?.get('from')).toBe('2026-01-31T12:00:00.000Z');
});

test.each(Object.entries(errorsByCode))('code %s has its error with advice', async (code, kind) => {
  service.refuse(422, Number(code));
  const error = await client.generateModule({ modelUrl: 'a/b' }).catch((reason) => reason);
  expect(error).toBeInstanceOf(kind);
  expect(error).toMatchObject({ code: Number(code), status: 422, requestId: 'req_12345678' });
  expect(error.details).toEqual({ why: 'because' });
  expect(error.advice).not.toBe('');
  expect(error.message).toContain('req_12345678');
  expect(lilypad).toHaveProperty(error.name);
});

test("a foreign error answer keeps its text", async () => {
  service.answers.push({ status: 404, body: '<h1>some proxy</h1>' });
  await expect(client.getMetrics({ modelId: 'a/b' })).rejects.toMatchObject({
    code: 0,
    message: expect.stringContaining('some proxy'),
  });
});

test.each(['<h1>hello</h1>', '{}', '{"data": null}', '[1]'])(
  'the answer %s of another service names baseUrl',
  async (body) => {
    service.answers.push({ body });
    await expect(client.getMetrics({ modelId: 'a/b' })).rejects.toThrow(/baseUrl/);
  },
);

test('an unreachable service is a connection error', async () => {
  const lost = new LilypadClient({ apiKey: 'k', baseUrl: 'http://127.0.0.1:9', maxRetries: 0 });
  await expect(lost.getMetrics({ modelId: 'a/b' })).rejects.toThrow(ConnectionError);
});

test('a key is not sent to the target of a redirect', async () => {
  service.answers.push({ status: 307, headers: { Location: `${service.url}/elsewhere` } });
  await expect(client.getMetrics({ modelId: 'a/b' })).rejects.toThrow(/baseUrl/);
  expect(service.asked).toHaveLength(1);
});

test('a call ends at its deadline', async () => {
  service.answers.push({ hang: true });
  const call = client.getMetrics({ modelId: 'a/b' }, { timeoutMs: 50 });
  await expect(call).rejects.toThrow(lilypad.TimeoutError);
});

test('an aborted signal ends a call, its pauses included, with its reason', async () => {
  service.answers.push({ hang: true });
  const controller = new AbortController();
  const hanging = client.getMetrics({ modelId: 'a/b' }, { signal: controller.signal });
  setTimeout(() => controller.abort(new Error('enough')), 20);
  await expect(hanging).rejects.toThrow('enough');

  service.refuse(429, 2002, { 'Retry-After': '30' });
  const waiting = client.getMetrics({ modelId: 'a/b' }, { signal: AbortSignal.timeout(20) });
  await expect(waiting).rejects.toThrow(/aborted/);
});

test('a download is complete or an error', async () => {
  const body = Buffer.from('PK\u0001\u0002 archive');
  const headers = { ETag: `"${createHash('sha256').update(body).digest('hex')}"` };
  service.answers.push({ body, headers }, { body: body.subarray(1), headers });
  expect(Buffer.from(await client.download({ modelUrl: 'a/b' }))).toEqual(body);
  await expect(client.download({ modelUrl: 'a/b' })).rejects.toThrow(lilypad.ArchiveError);
});

test('a run can be awaited and shows its progress', async () => {
  service.answer(RUN, { status: 202 });
  service.answer({ ...RUN, state: 'running' });
  service.answer(OVER);
  const job = await client.benchmarks.start({ modelId: 'a/b', batchSizes: [1, 2] });
  const states = [];
  for await (const run of job.progress()) states.push(run.state);
  expect(states).toEqual(['queued', 'running', 'succeeded']);
  expect((await job.wait()).progress.done).toBe(4);
  expect(service.asked[0]?.headers['prefer']).toBe('respond-async');
  expect(JSON.parse(service.asked[0]?.body ?? '')).toEqual({ modelId: 'a/b', batchSizes: [1, 2] });
});

test('a run canceled during the wait is reported as canceled', async () => {
  service.answer(RUN, { status: 202 });
  service.answer({ ...RUN, state: 'canceled' });
  const job = await client.benchmarks.start({ modelId: 'a/b' });
  const states = [];
  for await (const run of job.progress()) {
    states.push(run.state);
    if (run.state === 'queued') await job.cancel();
  }
  expect(states).toEqual(['queued', 'canceled']);
});

test('a failed run rejects with its error', async () => {
  const error = { code: 1004, status: 422, message: 'too large', reason: 'out_of_memory' };
  service.answer({ ...RUN, state: 'failed', error }, { status: 202 });
  const failure = await client.runBenchmark({ modelId: 'a/b' }).catch((reason) => reason);
  expect(failure).toBeInstanceOf(lilypad.BenchmarkError);
  expect(failure.details).toEqual({ reason: 'out_of_memory', id: 'bench_1' });
});

test('a run is canceled after its timeout or when its signal is aborted', async () => {
  service.answer(RUN, { status: 202 });
  service.answer({ ...RUN, state: 'canceled' });
  const late = client.runBenchmark({ modelId: 'a/b' }, { waitTimeoutMs: 0 });
  await expect(late).rejects.toThrow(lilypad.JobTimeoutError);

  const controller = new AbortController();
  service.answer(RUN, { status: 202 });
  service.answers.push({ hang: true });
  service.answer({ ...RUN, state: 'canceled' });
  const left = client.runBenchmark({ modelId: 'a/b' }, { signal: controller.signal });
  await vi.waitUntil(() => service.asked.length === 4);
  controller.abort(new Error('enough'));
  await expect(left).rejects.toThrow('enough');
  const canceled = service.asked.filter(({ method }) => method === 'DELETE');
  expect(canceled.map(({ path }) => path)).toEqual(Array(2).fill('/v1/api/benchmark/bench_1'));
});

test('a verification is canceled when its signal is aborted', async () => {
  const verification = { id: 'verify_1', state: 'queued' };
  service.answer({ ...MODULE, verification }, { status: 202 });
  service.answers.push({ hang: true });
  service.answer({ ...MODULE, verification: { ...verification, state: 'canceled' } });
  const controller = new AbortController();
  const request = { modelUrl: 'a/b', verify: true };
  const left = client.generateModule(request, { signal: controller.signal });
  await vi.waitUntil(() => service.asked.length === 2);
  controller.abort(new Error('enough'));
  await expect(left).rejects.toThrow('enough');
  expect(service.asked.at(-1)).toMatchObject({ method: 'DELETE' });
});

test('a list is an iterator over all pages', async () => {
  service.answer({ runs: [RUN, RUN], next: 'bench_1' });
  service.answer({ runs: [OVER], next: null });
  const runs: Run[] = [];
  for await (const run of client.benchmarks.list({ pageSize: 2 })) runs.push(run);
  expect(runs.map((run) => run.state)).toEqual(['queued', 'queued', 'succeeded']);
  expect(service.asked[1]?.path).toBe('/v1/api/benchmark?limit=2&before=bench_1');
});

test('the response and its rate limit are available after a refusal too', async () => {
  const headers = { 'X-RateLimit-Limit': '5', 'X-RateLimit-Remaining': '4', 'X-RateLimit-Reset': '3' };
  service.answer({ statistics: {} }, { headers });
  const answer = await client.getMetrics({ modelId: 'a/b' }).withResponse();
  expect([answer.status, answer.requestId]).toEqual([200, 'req_12345678']);
  expect(client.lastRateLimit?.remaining).toBe(4);
  service.refuse(429, 2002, { ...headers, 'X-RateLimit-Remaining': '0', 'Retry-After': '900' });
  await expect(client.getMetrics({ modelId: 'a/b' })).rejects.toMatchObject({ retryAfterMs: 900_000 });
  expect(client.lastRateLimit?.remaining).toBe(0);
});

test('a copy of the client shares its rate limit', async () => {
  const headers = { 'X-RateLimit-Limit': '5', 'X-RateLimit-Remaining': '4', 'X-RateLimit-Reset': '3' };
  service.answer({ statistics: {} }, { headers });
  await client.withOptions({ maxRetries: 0 }).getMetrics({ modelId: 'a/b' });
  expect(client.lastRateLimit?.remaining).toBe(4);
});

test('beta methods call v2 with the beta header', async () => {
  service.answer(MODULE);
  await client.beta.generateModule({ modelUrl: 'a/b' });
  expect(service.asked[0]?.path).toBe('/v2/api/generate');
  expect(service.asked[0]?.headers['x-lilypad-beta']).toBe('v2');
});

test("keys are created with the account's password", async () => {
  service.refuse(401, 2001);
  const account = { email: 'ä@b.c', password: 'secret' };
  const owner = new LilypadClient({ baseUrl: service.url, account });
  await expect(owner.keys.create({ name: 'x' })).rejects.toThrow(lilypad.AuthenticationError);
  const sent = service.asked[0]?.headers['authorization']?.replace('Basic ', '') ?? '';
  expect(Buffer.from(sent, 'base64').toString()).toBe('ä@b.c:secret');
  await expect(client.keys.list()).rejects.toThrow(/account/);
});

test("a code of the second factor is sent with the account's password", async () => {
  service.answer({ keys: [] });
  const account = { email: 'a@b.c', password: 'secret', code: '123456' };
  await new LilypadClient({ baseUrl: service.url, account }).keys.list();
  expect(service.asked[0]?.headers['x-lilypad-code']).toBe('123456');
});

test('an answer without content resolves to undefined', async () => {
  service.answers.push({ status: 204 });
  await expect(client.alerts.rules.remove('rule/1')).resolves.toBeUndefined();
  expect(service.asked[0]?.path).toBe('/v1/api/alerts/rules/rule%2F1');
});

test('a metric of NaN is refused before a request is sent', async () => {
  const record = { modelId: 'a/b', metrics: { latency: Number.NaN } };
  await expect(client.metrics.record(record)).rejects.toThrow(/latency/);
  expect(service.asked).toHaveLength(0);
});

test.each([Infinity, 2 ** 31])('a deadline of %d ms is waited for', async (timeoutMs) => {
  service.answer({ statistics: {} });
  const patient = client.withOptions({ timeoutMs, maxRetries: 0 });
  await expect(patient.getMetrics({ modelId: 'a/b' })).resolves.toEqual({ statistics: {} });
});

test('idempotency keys are made in a page opened over plain http too', async () => {
  vi.stubGlobal('crypto', { getRandomValues: crypto.getRandomValues.bind(crypto) });
  service.answer({ status: 'success' });
  await client.metrics.record({ modelId: 'a/b', metrics: { latency: 1 } });
  expect(service.asked[0]?.headers['idempotency-key']).toMatch(/^[0-9a-f]{32}$/);
});

test.each(['ftp://x', 'http://', 'https://[::1', 'http://a:99999'])('the address %s is refused', (baseUrl) => {
  expect(() => new LilypadClient({ apiKey: 'k', baseUrl })).toThrow(/baseUrl/);
});

test('an error without a key names the variable to set', () => {
  vi.stubEnv('LILYPAD_API_KEY', '');
  expect(() => new LilypadClient()).toThrow(/LILYPAD_API_KEY/);
  vi.stubEnv('LILYPAD_API_KEY', 'k');
  expect(new LilypadClient()).toBeInstanceOf(LilypadClient);
});

test('a key in a browser is refused unless it is explicitly allowed', () => {
  vi.stubGlobal('document', {});
  expect(() => new LilypadClient({ apiKey: 'k' })).toThrow(LilypadError);
  expect(new LilypadClient({ apiKey: 'k', allowBrowser: true })).toBeInstanceOf(LilypadClient);
});

test('a printed client contains no key', () => {
  expect(inspect(client, { depth: 9, showHidden: true })).not.toContain('lmg_live_x');
});

test('every operation of the API has a method', () => {
  const folder = new URL('../src/', import.meta.url);
  const files = readdirSync(folder).filter((name) => !['operations.ts', 'schema.ts'].includes(name));
  const source = files.map((name) => readFileSync(new URL(name, folder), 'utf8')).join('');
  const missing = Object.keys(operations).filter((name) => !source.includes(`('${name}'`));
  expect(missing).toEqual([]);
});
