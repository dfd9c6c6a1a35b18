/** Metrics of models in use: recording, summaries, samples. */
import type { Call } from './call.ts';
import type { Connection } from './connection.ts';
import type { CallOptions, Data } from './request.ts';
import type { MetricRecord, Monitoring, MonitorRequest, Recorded, RecordedModel, Sample } from './types.ts';

/** A record whose timestamp may be a Date. */
export type NewRecord = Omit<MetricRecord, 'timestamp'> & {
  /** When it was measured; now if omitted. */
  timestamp?: Date | string | undefined;
};

/** A selection of a model's samples: from `since`, before `until`. */
export interface Span {
  modelId: string;
  /** The first time; the oldest if omitted. */
  from?: Date | string | undefined;
  /** The time before which to end; no end if omitted. */
  to?: Date | string | undefined;
}

export class Metrics {
  constructor(private readonly connection: Connection) {}

  /** Summarise the last days of a model: statistics, plots, advice. */
  get(request: MonitorRequest, options: CallOptions = {}): Call<Monitoring> {
    return this.connection.call('monitor', { body: request, ...options });
  }

  /**
   * Store metric values of one moment; they are committed when this resolves.
   *
   * Units: throughput samples/s, latency ms, memory_usage and gpu_memory_usage MiB,
   * cost_per_inference USD.
   */
  record(record: NewRecord, options: CallOptions = {}): Call<Recorded> {
    return this.connection.call('record', { body: record, ...options });
  }

  /** Store up to 10,000 records, all or none. Part of the beta, v2. */
  recordMany(records: readonly NewRecord[], options: CallOptions = {}): Call<Recorded> {
    return this.connection.call('record_many', { body: { records }, ...options });
  }

  /** Return the account's storage use and its limits. */
  storage(options: CallOptions = {}): Call<Data<'get_storage'>> {
    return this.connection.call('get_storage', options);
  }

  /** Yield the models that were recorded or measured, with their metrics. */
  async *models({
    pageSize = 100,
    ...options
  }: CallOptions & { pageSize?: number } = {}): AsyncGenerator<RecordedModel> {
    for (let before: string | undefined; ; ) {
      const query = { limit: pageSize, before };
      const { models, next } = await this.connection.call('list_models', { query, ...options });
      yield* models;
      if (!next) return;
      before = next;
    }
  }

  /** Yield the recorded samples of one metric, oldest first. */
  async *samples({
    modelId,
    metric,
    from,
    to,
    pageSize = 5000,
    ...options
  }: CallOptions & Span & { metric: string; pageSize?: number }): AsyncGenerator<Sample> {
    for (let cursor: string | undefined; ; ) {
      const query = { modelId, metric, from, to, limit: pageSize, cursor };
      const { samples, next } = await this.connection.call('list_samples', { query, ...options });
      yield* samples;
      if (!next) return;
      cursor = next;
    }
  }

  /** Delete samples of one metric or of all metrics; later statistics exclude them. */
  deleteSamples({
    modelId,
    metric,
    from,
    to,
    ...options
  }: CallOptions & Span & { metric?: string }): Call<Data<'delete_samples'>> {
    const query = { modelId, metric, from, to };
    return this.connection.call('delete_samples', { query, ...options });
  }
}
