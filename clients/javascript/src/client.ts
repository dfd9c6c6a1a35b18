/** The client: the reference's methods, and a property for each part of the API. */
import { Account, Keys } from './account.ts';
import { Alerts } from './alerts.ts';
import { Benchmarks } from './benchmarks.ts';
import type { Call } from './call.ts';
import { type ClientOptions, Connection, type RateLimit } from './connection.ts';
import type { WaitOptions } from './jobs.ts';
import { Metrics } from './metrics.ts';
import { Modules } from './modules.ts';
import type { CallOptions } from './request.ts';
import type * as types from './types.ts';
import { Webhooks } from './webhooks.ts';

/** A client of the Lilypad Model Generator; throws LilypadError when there is no key. */
export class LilypadClient {
  readonly modules: Modules;
  readonly benchmarks: Benchmarks;
  readonly metrics: Metrics;
  readonly alerts: Alerts;
  readonly webhooks: Webhooks;
  readonly account: Account;
  readonly keys: Keys;
  /** @internal */
  readonly connection: Connection;

  constructor(options: ClientOptions | Connection = {}) {
    const connection = options instanceof Connection ? options : Connection.open(options);
    this.connection = connection;
    this.modules = new Modules(connection);
    this.benchmarks = new Benchmarks(connection);
    this.metrics = new Metrics(connection);
    this.alerts = new Alerts(connection);
    this.webhooks = new Webhooks(connection);
    this.account = new Account(connection);
    this.keys = new Keys(connection);
  }

  /** The rate limit in the last answer; undefined before the first answer. */
  get lastRateLimit(): RateLimit | undefined {
    return this.connection.lastRateLimit;
  }

  /** The same client for the beta, v2 of the API. */
  get beta(): LilypadClient {
    return new LilypadClient(this.connection.with({ version: 'v2' }));
  }

  /** The same client with another deadline per call, or number of retries. */
  withOptions(options: { timeoutMs?: number; maxRetries?: number }): LilypadClient {
    return new LilypadClient(this.connection.with(options));
  }

  /** Generate the files of a module that runs the model; the same as `modules.generate`. */
  generateModule(
    request: types.GenerateRequest,
    options: CallOptions & WaitOptions = {},
  ): Promise<types.Module> {
    return this.modules.generate(request, options);
  }

  /** Download the module as a zip and check its digest; the same as `modules.download`. */
  download(
    request: types.GenerateRequest,
    options: CallOptions = {},
  ): Promise<Uint8Array<ArrayBuffer>> {
    return this.modules.download(request, options);
  }

  /** Summarise the last days of a model; the same as `metrics.get`. */
  getMetrics(
    request: types.MonitorRequest,
    options: CallOptions = {},
  ): Call<types.Monitoring> {
    return this.metrics.get(request, options);
  }

  /**
   * Measure a model and wait for the results: `run.results`, `run.analysis`.
   *
   * `benchmarks.start` does not wait and shows progress. Rejects with JobTimeoutError when the
   * run did not finish within `waitTimeoutMs`, and was canceled.
   */
  runBenchmark(
    request: types.BenchmarkRequest,
    options: CallOptions & WaitOptions = {},
  ): Promise<types.Run> {
    return this.benchmarks.run(request, options);
  }
}
