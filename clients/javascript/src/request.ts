/** One operation of the API, and a request for it. */
import type { operations as Schema } from './schema.ts';
import { operations } from './operations.ts';

export type Version = 'v1' | 'v2';
export type Name = keyof typeof operations;

/** A row of the generated table. */
export interface Operation {
  id: string;
  method: string;
  /** Below `/<version>/api`, with its parameters in braces. */
  path: string;
  /** The credentials that the caller needs: an API key, the account's password, or none. */
  credentials: 'key' | 'account' | null;
  /** Whether it takes an `Idempotency-Key`. */
  idempotent: boolean;
  /** Whether sending it twice does no more than sending it once. */
  repeatable: boolean;
  versions: readonly Version[];
}

type Answers<N extends Name> = Schema[(typeof operations)[N]['id']]['responses'];
type Json<R> = R extends { content: { 'application/json': { data: infer D } } } ? D : void;
type At<R, S extends number> = S extends keyof R ? Json<R[S]> : never;
/** The type of `data` in an operation's answer. */
export type Data<N extends Name> = [At<Answers<N>, 200 | 201>] extends [never]
  ? void
  : At<Answers<N>, 200 | 201>;

/** Options of a single call. */
export interface CallOptions {
  /** Ends the call, its pauses included. */
  signal?: AbortSignal | undefined;
  /** The deadline of all attempts together. */
  timeoutMs?: number | undefined;
  /** Your own key, so that a restarted program repeats nothing; only where the API takes one. */
  idempotencyKey?: string | undefined;
}

export interface Parts extends CallOptions {
  body?: object | undefined;
  query?: Record<string, string | number | boolean | Date | undefined>;
  headers?: Record<string, string>;
  path?: Record<string, string>;
}

/** A request whose body and `Idempotency-Key` are fixed before its first attempt. */
export interface Request {
  operation: Operation;
  /** The path, with the query. */
  path: string;
  headers: Record<string, string>;
  body: string | undefined;
  repeatable: boolean;
  signal: AbortSignal | undefined;
  timeoutMs: number | undefined;
}

export function build(name: Name, parts: Parts): Request {
  const operation: Operation = operations[name];
  const headers: Record<string, string> = { ...parts.headers };
  if (operation.idempotent) headers['Idempotency-Key'] = parts.idempotencyKey ?? unique();
  let body: string | undefined;
  if (parts.body !== undefined) {
    body = JSON.stringify(parts.body, finite);
    headers['Content-Type'] = 'application/json';
  }
  const path = operation.path.replace(/\{(\w+)\}/g, (_, parameter: string) => {
    const value = parts.path?.[parameter];
    if (!value) throw new TypeError(`${parameter} is empty`);
    return encodeURIComponent(value);
  });
  return {
    operation,
    path: path + query(parts.query ?? {}),
    headers,
    body,
    repeatable: operation.repeatable || 'Idempotency-Key' in headers,
    signal: parts.signal,
    timeoutMs: parts.timeoutMs,
  };
}

/** Make a random UUID, also in pages opened over plain http, where `randomUUID` is missing. */
function unique(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Reject NaN and Infinity, which JSON would turn into null, so that nothing would be recorded. */
function finite(key: string, value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    throw new TypeError(`${key}: must be a finite number, got ${value}`);
  }
  return value;
}

function query(fields: NonNullable<Parts['query']>): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) {
      pairs.set(name, value instanceof Date ? value.toISOString() : String(value));
    }
  }
  return pairs.size ? `?${pairs}` : '';
}
