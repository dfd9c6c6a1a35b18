/** Handles of long-running jobs: wait, follow, cancel. */
import { JobTimeoutError } from './errors.ts';
import { pause } from './pause.ts';
import type { CallOptions } from './request.ts';

const OVER = new Set(['succeeded', 'failed', 'canceled']);
/** The time for which the service may hold an answer, and how much longer the client waits. */
const HOLD_S = 50;
const GRACE_MS = 10_000;
/** Pauses between two polls of a job, which grow, since long jobs change slowly. */
const FIRST_LOOK_MS = 500;
const MAX_LOOK_MS = 5_000;
const LOOK_GROWTH = 1.5;

/** Operations on one kind of job: look-up, cancel, state, outcome. */
export interface Work<T> {
  get(id: string, options: CallOptions & { headers?: Record<string, string> }): PromiseLike<T>;
  cancel(id: string, options?: CallOptions): PromiseLike<T>;
  state(latest: T): string;
  /** Throws the error of a failed job. */
  check(latest: T): void;
}

export interface WaitOptions {
  /** Ends the wait; the job continues. */
  signal?: AbortSignal | undefined;
  /** Time after which the job is canceled; by default it is never canceled. */
  waitTimeoutMs?: number | undefined;
}

/** Wait for a job that only this call knows: an aborted signal cancels it. */
export async function waitAlone<T>(job: Job<T>, { signal, waitTimeoutMs }: WaitOptions): Promise<T> {
  try {
    return await job.wait({ signal, waitTimeoutMs });
  } catch (error) {
    if (signal?.aborted) await job.cancel().catch(() => {});
    throw error;
  }
}

/** A job that the service runs, whether or not a client waits for it. */
export class Job<T> {
  /** `latest` is the job's state when it was last fetched. */
  constructor(
    private readonly work: Work<T>,
    readonly id: string,
    public latest: T,
  ) {}

  /** The state when last fetched: `queued`, `running`, `succeeded`, `failed` or `canceled`. */
  get state(): string {
    return this.work.state(this.latest);
  }

  get isOver(): boolean {
    return OVER.has(this.state);
  }

  /** Fetch the job's current state. */
  async refresh(options: CallOptions = {}): Promise<T> {
    this.latest = await this.work.get(this.id, options);
    return this.latest;
  }

  /** Cancel the job; a finished job is unchanged. */
  async cancel(options: CallOptions = {}): Promise<T> {
    this.latest = await this.work.cancel(this.id, options);
    return this.latest;
  }

  /**
   * Wait until the job has finished and return its result.
   *
   * Rejects with JobTimeoutError if it did not finish in time, and cancels it; with a
   * StatusError if it failed: `code` and `details.reason` say why.
   */
  async wait({ signal, waitTimeoutMs }: WaitOptions = {}): Promise<T> {
    const deadline = waitTimeoutMs === undefined ? Infinity : performance.now() + waitTimeoutMs;
    for (let pauseMs = FIRST_LOOK_MS; !this.isOver; ) {
      const began = performance.now();
      if (began >= deadline) {
        await this.cancel({ signal });
        if (this.isOver && this.state !== 'canceled') break;
        throw new JobTimeoutError(
          `${this.id} did not finish within ${waitTimeoutMs} ms; it was canceled`,
        );
      }
      const holdS = Math.max(1, Math.floor(Math.min((deadline - began) / 1000, HOLD_S)));
      await this.refresh({
        signal,
        timeoutMs: holdS * 1000 + GRACE_MS,
        headers: { Prefer: `wait=${holdS}` },
      } as CallOptions);
      if (!this.isOver && performance.now() - began < pauseMs) {
        // The service holds too many answers of this account already.
        await pause(pauseMs, signal);
        pauseMs = Math.min(pauseMs * LOOK_GROWTH, MAX_LOOK_MS);
      }
    }
    this.work.check(this.latest);
    return this.latest;
  }

  /** Yield the job after each change, for the last time when it has finished. */
  async *progress({ signal }: { signal?: AbortSignal | undefined } = {}): AsyncGenerator<T> {
    let shown = '';
    for (let pauseMs = FIRST_LOOK_MS; ; ) {
      // Again after each: the caller may have canceled the job meanwhile.
      for (let answer; (answer = JSON.stringify(this.latest)) !== shown; ) {
        shown = answer;
        yield this.latest;
      }
      if (this.isOver) return;
      await pause(pauseMs, signal);
      await this.refresh({ signal });
      pauseMs = Math.min(pauseMs * LOOK_GROWTH, MAX_LOOK_MS);
    }
  }
}
