/** The retry policy. Its test cases are in clients/conformance/retries.json. */
import { ConnectionError, type LilypadError, statusError, TimeoutError } from './errors.ts';
import { Lost, type Reply } from './exchange.ts';
import { pause } from './pause.ts';
import type { Request } from './request.ts';

/** The service refused the request or never received it: safe to repeat for any request. */
const REFUSED = new Set([408, 429]);
/** The service may have carried out the request before the answer was lost. */
const UNCERTAIN = new Set([502, 503, 504]);
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 8_000;
/** With a longer `Retry-After`, waiting is left to the caller. */
const MAX_RETRY_AFTER_MS = 60_000;
/** In an outage at most this many retries, then one for every ten answers. */
const MAX_RETRY_TOKENS = 100;
const TOKENS_PER_RETRY = 10;
/** Max characters of a foreign answer that an error quotes. */
const MAX_QUOTED_CHARACTERS = 500;

/** A bound on the retries of all of a client's calls, so that they do not worsen an outage. */
export class Budget {
  private tokens = MAX_RETRY_TOKENS;

  earn(): void {
    this.tokens = Math.min(this.tokens + 1, MAX_RETRY_TOKENS);
  }

  /** Spend one retry; return whether the budget allowed it. */
  spend(): boolean {
    if (this.tokens < TOKENS_PER_RETRY) return false;
    this.tokens -= TOKENS_PER_RETRY;
    return true;
  }
}

export interface Policy {
  maxRetries: number;
  timeoutMs: number;
  budget: Budget;
}

/** Send a request until it succeeds, cannot be retried, or reaches the deadline. */
export async function attempts(
  request: Request,
  policy: Policy,
  send: (leftMs: number) => Promise<Reply>,
): Promise<Reply> {
  const timeoutMs = request.timeoutMs ?? policy.timeoutMs;
  const deadline = performance.now() + timeoutMs;
  const late = () => new TimeoutError(`no answer within ${timeoutMs} ms`);
  for (let retries = 0, uncertain = false; ; ) {
    const leftMs = deadline - performance.now();
    if (leftMs <= 0) throw late();
    let error: LilypadError;
    let again: boolean;
    let askedMs: number | undefined;
    try {
      const reply = await send(leftMs);
      if (reply.status < 400) {
        policy.budget.earn();
        return reply;
      }
      askedMs = retryAfterMs(reply.headers);
      error = refusal(reply, askedMs);
      // The conflict is with this same request, whose first answer was lost. The service locks its
      // Idempotency-Key until the request is done, so waiting costs no retry.
      if (uncertain && reply.status === 409 && askedMs !== undefined) {
        const waitMs = Math.max(askedMs, FIRST_PAUSE_MS);
        if (performance.now() + waitMs >= deadline) throw error;
        await pause(waitMs, request.signal);
        continue;
      }
      again = REFUSED.has(reply.status) || (UNCERTAIN.has(reply.status) && request.repeatable);
      uncertain ||= UNCERTAIN.has(reply.status);
    } catch (lost) {
      if (!(lost instanceof Lost)) throw lost;
      error = lost.timedOut ? late() : new ConnectionError(lost.message);
      again = request.repeatable || !lost.sent;
      uncertain ||= lost.sent;
    }
    const waitMs = pauseMs(retries, askedMs);
    if (
      !again ||
      retries >= policy.maxRetries ||
      (askedMs ?? 0) > MAX_RETRY_AFTER_MS ||
      performance.now() + waitMs >= deadline ||
      !policy.budget.spend()
    ) {
      throw error;
    }
    retries += 1;
    await pause(waitMs, request.signal);
  }
}

/** The pause before a retry: at least the `Retry-After` if stated, with jitter. */
function pauseMs(retries: number, askedMs: number | undefined): number {
  const chance = Math.random();
  if (askedMs) return askedMs * (1 + chance / 10);
  return Math.min(FIRST_PAUSE_MS * 2 ** retries, MAX_PAUSE_MS) * (0.5 + chance / 2);
}

/** Parse `Retry-After`, a number of seconds or a date; 0 for a past date. */
function retryAfterMs(headers: Headers): number | undefined {
  const text = headers.get('retry-after')?.trim() ?? '';
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(date - Date.now(), 0);
}

function refusal(reply: Reply, askedMs: number | undefined): LilypadError {
  const text = new TextDecoder().decode(reply.content);
  let error: { code?: unknown; message?: unknown; details?: Record<string, unknown> } | undefined;
  try {
    error = JSON.parse(text).error;
  } catch {
    error = undefined;
  }
  const known = typeof error?.code === 'number' && typeof error.message === 'string';
  return statusError({
    message: known ? String(error?.message) : text.slice(0, MAX_QUOTED_CHARACTERS) || `HTTP ${reply.status}`,
    status: reply.status,
    code: known ? Number(error?.code) : 0,
    details: known ? (error?.details ?? {}) : {},
    requestId: reply.headers.get('x-request-id') ?? '',
    headers: reply.headers,
    retryAfterMs: askedMs,
  });
}
