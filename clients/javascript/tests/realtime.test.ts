/** Live updates, from a scripted socket. */
import { expect, test, vi } from 'vitest';
import { LilypadClient } from '../src/index.ts';
import { subscribeMetrics } from '../src/realtime.ts';

const asked: { since?: string }[] = [];

vi.mock('../src/feed.ts', () => ({
  Feed: class {
    ask(_name: string, body: { since?: string }) {
      asked.push(body);
    }

    async *events() {
      const update = (latency: number) => ({
        name: 'metric_update',
        data: { modelId: 'a/b', metrics: { latency } },
      });
      for (const complete of [true, false]) {
        yield { name: 'connect' };
        yield update(1);
        yield { name: 'acknowledged', data: { status: 'success', complete, cursor: 'c1' } };
        yield* [update(2), update(3)];
      }
    }

    close() {}
  },
}));

test('an update states whether earlier ones were skipped', async () => {
  const client = new LilypadClient({ apiKey: 'k' });
  const found = [];
  for await (const update of subscribeMetrics(client, { modelId: 'a/b', since: 'c0' })) {
    found.push([update.metrics['latency'], update.complete]);
  }
  expect(found).toEqual([[1, true], [2, true], [3, true], [1, true], [2, false], [3, true]]);
  expect(asked.map(({ since }) => since)).toEqual(['c0', 'c1']);
});
