/** A socket's events in order, across reconnections. */
import { io, type Socket } from 'socket.io-client';
import type { LilypadClient } from './client.ts';
import { ConnectionError, LilypadError, statusError } from './errors.ts';

/** The values recorded for a model at one moment. */
export interface MetricUpdate {
  modelId: string;
  timestamp: string;
  metrics: Record<string, number>;
  /** A position to resume from, in this process or another: `since`. */
  cursor?: string;
  /**
   * False: more was missed than is sent again, and some of it is not among the updates before
   * this one; `client.metrics.samples` has it.
   */
  complete: boolean;
}

interface Failure {
  code: number;
  message: string;
  details?: Record<string, unknown>;
}

type Acknowledgement = { status: 'success'; cursor?: string; complete?: boolean } | ({ status: 'error' } & Failure);

type Event =
  | { name: 'connect' | 'alert' }
  | { name: 'gap'; data: { since: string } }
  | { name: 'metric_update'; data: Omit<MetricUpdate, 'complete'> }
  | { name: 'acknowledged'; data: Acknowledgement };

/** Max events queued for a slow reader; beyond that, the socket reconnects from the cursor. */
const MAX_WAITING = 10_000;
/** A dependency is unavailable; every other refusal is permanent. */
export const UNAVAILABLE = 5003;
/** Pause before the client reconnects after the service was unavailable. */
const AGAIN_MS = 1_000;

export class Feed {
  private readonly socket: Socket;
  private readonly waiting: Event[] = [];
  private overflowed = false;
  private over = false;
  private error: unknown;
  private wake = () => {};

  constructor(
    client: LilypadClient,
    private readonly signal?: AbortSignal | undefined,
  ) {
    const { baseUrl, key, timeoutMs } = client.connection;
    if (!key) throw new LilypadError('a subscription needs an API key: give apiKey');
    // forceNew: a separate connection, which ends with this feed.
    const socket = io(baseUrl, { auth: { token: key }, transports: ['websocket'], forceNew: true });
    this.socket = socket;
    let reason: Failure | undefined;
    // Applies to the first connection only; later ones are retried as long as necessary.
    let deadline = performance.now() + timeoutMs;
    socket.on('connect', () => {
      deadline = Infinity;
      reason = undefined;
      this.overflowed = false;
      this.add({ name: 'connect' });
    });
    socket.on('error', (failure: Failure) => (reason = failure));
    socket.on('connect_error', (error: Error & { data?: Failure }) => {
      if (error.data && error.data.code !== UNAVAILABLE) this.fail(refusal(error.data));
      else if (performance.now() >= deadline) {
        this.fail(new ConnectionError(`no connection to ${baseUrl}: ${error.message}`));
      } else if (error.data) {
        // Without data the network failed, and the socket reconnects by itself.
        setTimeout(() => this.over || socket.connect(), AGAIN_MS);
      }
    });
    socket.on('disconnect', (why) => {
      if (why !== 'io server disconnect') return;
      const message = 'the service closed the connection';
      this.fail(reason ? refusal(reason) : new LilypadError(message));
    });
    socket.on('metric_update', (data) => this.add({ name: 'metric_update', data }));
    socket.on('gap', (data) => this.add({ name: 'gap', data }));
    socket.on('alert', () => this.add({ name: 'alert' }));
    signal?.addEventListener('abort', this.close);
  }

  /** Send an event whose acknowledgement arrives as another event. */
  ask(name: string, body: object): void {
    // Not buffered for the next connection, which subscribes again.
    if (!this.socket.connected) return;
    this.socket.emit(name, body, (data: Acknowledgement) => this.add({ name: 'acknowledged', data }));
  }

  async *events(): AsyncGenerator<Event> {
    this.signal?.throwIfAborted();
    for (;;) {
      const event = this.waiting.shift();
      if (event) yield event;
      else if (this.error) throw this.error;
      else if (this.over) return;
      else if (this.overflowed && !this.socket.connected) this.socket.connect();
      if (!this.waiting.length && !this.over) {
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    }
  }

  readonly close = (): void => {
    this.over = true;
    this.signal?.removeEventListener('abort', this.close);
    this.socket.close();
    this.wake();
  };

  private add(event: Event): void {
    if (this.overflowed) return;
    if (this.waiting.length < MAX_WAITING) this.waiting.push(event);
    else {
      this.overflowed = true;
      this.socket.disconnect();
    }
    this.wake();
  }

  private fail(error: unknown): void {
    this.error = error;
    this.close();
  }
}

export function refusal({ code, message, details = {} }: Failure): Error {
  return statusError({ code, message, details, status: 0 });
}
