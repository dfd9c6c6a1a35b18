export type { Call, RawResponse } from './call.ts';
export { LilypadClient } from './client.ts';
export type { ClientOptions, RateLimit } from './connection.ts';
export * from './errors.ts';
export { Job, type WaitOptions } from './jobs.ts';
export type { NewRecord, Span } from './metrics.ts';
export type { CallOptions } from './request.ts';
export type * from './types.ts';
