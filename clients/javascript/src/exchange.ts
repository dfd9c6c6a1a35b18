/** One attempt: sends a request, and reads its complete answer. */
import type { Request } from './request.ts';

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** A complete answer. */
export interface Reply {
  status: number;
  headers: Headers;
  content: Uint8Array<ArrayBuffer>;
}

/** A missing or incomplete answer. `sent`: the service may have received the request. */
export class Lost extends Error {
  constructor(
    message: string,
    readonly sent: boolean,
    readonly timedOut = false,
  ) {
    super(message);
  }
}

/** Node's errors before a request is sent; in a browser every failed request counts as sent. */
const UNSENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

/** With a longer time, `setTimeout` would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Send a request once. Rejects with Lost, or with the reason of the caller's signal. */
export async function exchange(
  fetch: Fetch,
  url: string,
  request: Request,
  timeoutMs: number,
): Promise<Reply> {
  const { signal } = request;
  signal?.throwIfAborted();
  // AbortSignal.any keeps its parts alive for as long as the caller's signal lives.
  const controller = new AbortController();
  const stop = () => controller.abort();
  const timer = setTimeout(stop, Math.min(timeoutMs, MAX_TIMER_MS));
  signal?.addEventListener('abort', stop);
  try {
    const answer = await fetch(url, {
      method: request.operation.method,
      headers: request.headers,
      body: request.body,
      signal: controller.signal,
      // A key must not be sent to another origin.
      redirect: 'manual',
    });
    const content = new Uint8Array(await answer.arrayBuffer());
    return { status: answer.status, headers: answer.headers, content };
  } catch (error) {
    signal?.throwIfAborted();
    if (controller.signal.aborted) throw new Lost('no answer in time', true, true);
    const cause = causeOf(error);
    throw new Lost(`the connection failed: ${cause.text}`, !cause.codes.some((c) => UNSENT.has(c)));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

function causeOf(error: unknown): { text: string; codes: string[] } {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  // A host name with several addresses fails once per address.
  const parts: unknown[] = cause instanceof AggregateError ? cause.errors : [cause];
  const codes = parts.map((part) => String((part as { code?: unknown } | null)?.code ?? ''));
  const text = parts.map((part) => (part instanceof Error ? part.message : String(part)));
  return { text: text.join('; '), codes };
}
