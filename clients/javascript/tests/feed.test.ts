/** Sockets that never connect. */
import { expect, test } from 'vitest';
import { ConnectionError, LilypadClient } from '../src/index.ts';
import { subscribeMetrics } from '../src/realtime.ts';

test('a subscription without a first connection is an error after the deadline', async () => {
  // Nothing listens on this port.
  const client = new LilypadClient({ apiKey: 'k', baseUrl: 'http://127.0.0.1:9', timeoutMs: 1 });
  await expect(subscribeMetrics(client, { modelId: 'a/b' }).next()).rejects.toThrow(ConnectionError);
});
