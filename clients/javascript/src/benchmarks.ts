/** Benchmarks of models; a run is a job. */
import type { Call } from './call.ts';
import type { Connection } from './connection.ts';
import { BenchmarkError, statusError } from './errors.ts';
import { Job, waitAlone, type WaitOptions, type Work } from './jobs.ts';
import type { CallOptions } from './request.ts';
import type { BenchmarkRequest, Failure, Plots, Run } from './types.ts';

/** Runs that measure a model. */
export class Benchmarks {
  constructor(private readonly connection: Connection) {}

  /** Start a run and return its handle: `wait()`, `cancel()`, `progress()`. */
  async start(request: BenchmarkRequest, options: CallOptions = {}): Promise<Job<Run>> {
    const headers = { Prefer: 'respond-async' };
    const run = await this.connection.call('benchmark', { body: request, headers, ...options });
    return new Job(new RunWork(this.connection), run.id, run);
  }

  /** Start a run and wait for the results. An aborted signal cancels the run. */
  async run(
    request: BenchmarkRequest,
    { signal, waitTimeoutMs, ...options }: CallOptions & WaitOptions = {},
  ): Promise<Run> {
    const job = await this.start(request, { signal, ...options });
    return waitAlone(job, { signal, waitTimeoutMs });
  }

  /** Return a run in its current state. */
  get(id: string, options: CallOptions = {}): Call<Run> {
    return this.connection.call('get_benchmark', { path: { id }, ...options });
  }

  /** Yield the account's runs, or those of one model, newest first, without results. */
  async *list({
    pageSize = 100,
    modelId,
    ...options
  }: CallOptions & { pageSize?: number; modelId?: string } = {}): AsyncGenerator<Run> {
    for (let before: string | undefined; ; ) {
      const query = { modelId, limit: pageSize, before };
      const page = await this.connection.call('list_benchmarks', { query, ...options });
      yield* page.runs;
      if (!page.next) return;
      before = page.next;
    }
  }

  /** Cancel a run; a finished run is unchanged. */
  cancel(id: string, options: CallOptions = {}): Call<Run> {
    return this.connection.call('cancel_benchmark', { path: { id }, ...options });
  }

  /** Plot a run's results against batch size. */
  plot(
    id: string,
    {
      plotFormat,
      ...options
    }: CallOptions & { plotFormat?: 'plotly' | 'vega-lite' | 'series' } = {},
  ): Call<Plots> {
    return this.connection.call('plot_benchmark', {
      path: { id },
      query: { plotFormat },
      ...options,
    });
  }
}

class RunWork implements Work<Run> {
  constructor(private readonly connection: Connection) {}

  get(id: string, options: CallOptions): PromiseLike<Run> {
    return this.connection.call('get_benchmark', { path: { id }, ...options });
  }

  cancel(id: string, options: CallOptions = {}): PromiseLike<Run> {
    return this.connection.call('cancel_benchmark', { path: { id }, ...options });
  }

  state(latest: Run): string {
    return latest.state;
  }

  check(latest: Run): void {
    if (latest.error) throw failed(latest.error, latest.id);
    if (latest.state === 'canceled') {
      const details = { reason: 'canceled', id: latest.id };
      throw new BenchmarkError({ message: 'the run was canceled', status: 422, code: 1004, details });
    }
  }
}

/** The error of a failed job, with the job's error code. */
export function failed(failure: Failure, id: string): Error {
  const { code, message, status, reason } = failure;
  return statusError({ code, message, status, details: { reason, id } });
}
