/**
 * The errors that the client throws.
 *
 * LilypadError
 *   ConnectionError        no answer: the network, or something else at baseUrl
 *     TimeoutError         no answer before the deadline
 *   JobTimeoutError        a run did not finish in time; it was canceled
 *   ArchiveError           an incomplete, changed or unsafe archive
 *   StatusError            the service refused; its `code`:
 *     InvalidModelError    1001  not the address of a model, or no such model
 *     GenerationError      1002  the model is refused, or the Hub is unavailable
 *     InvalidRequestError  1003  a field is wrong: `details.fields`
 *     BenchmarkError       1004  the run was refused, or failed
 *     MonitoringError      1005
 *     AuthenticationError  2001  no, unknown, expired or revoked key
 *     RateLimitError       2002  `retryAfterMs`
 *     PermissionDeniedError 2003 the key lacks a scope, or v2 is not enabled
 *     NotFoundError        3001  also another account's object
 *     ConflictError        3002  an Idempotency-Key in use
 *     InternalError        5001
 *     UnavailableError     5003  overloaded, or a dependency is unavailable
 *
 * A call that its own AbortSignal ends rejects with the signal's reason, as `fetch` does.
 */

/** The base class of all errors; `advice` says what to do next. */
export class LilypadError extends Error {
  readonly advice: string = 'change what the message names, then call again';

  override get name(): string {
    return this.constructor.name;
  }
}

export class ConnectionError extends LilypadError {
  override readonly advice: string = 'check baseUrl and the network, then try again';
}

export class TimeoutError extends ConnectionError {
  override readonly advice: string = 'try again, or give the client a longer timeoutMs';
}

export class JobTimeoutError extends LilypadError {
  override readonly advice: string = 'start it again with a longer waitTimeoutMs';
}

export class ArchiveError extends LilypadError {
  override readonly advice: string = 'download it again';
}

export interface Refusal {
  message: string;
  /** The HTTP status. */
  status: number;
  /** The API's code; 0 if the answer is not the API's. */
  code: number;
  details: Record<string, unknown>;
  /** The id of the request in the service's logs; quote it to its operators. */
  requestId: string;
  headers: Headers;
  /** The wait that the service asked for, if it did. */
  retryAfterMs: number | undefined;
}

export class StatusError extends LilypadError implements Refusal {
  override readonly advice: string = 'read the message; the service lists its codes at /docs/reference/errors';
  readonly status: number;
  readonly code: number;
  readonly details: Record<string, unknown>;
  readonly requestId: string;
  readonly headers: Headers;
  readonly retryAfterMs: number | undefined;

  constructor(refusal: Partial<Refusal> & { message: string; status: number }) {
    const code = refusal.code ?? 0;
    const requestId = refusal.requestId ?? '';
    const number = code ? `code ${code}` : `HTTP ${refusal.status}`;
    super(`${refusal.message} (${number}, request ${requestId || 'unknown'})`);
    this.status = refusal.status;
    this.code = code;
    this.details = refusal.details ?? {};
    this.requestId = requestId;
    this.headers = refusal.headers ?? new Headers();
    this.retryAfterMs = refusal.retryAfterMs;
  }
}

export class InvalidModelError extends StatusError {
  override readonly advice = "check the model's address: https://huggingface.co/<owner>/<name>";
}

export class GenerationError extends StatusError {
  override readonly advice =
    'details.reason says why; use another model, or retry once the Hub is available';
}

export class InvalidRequestError extends StatusError {
  override readonly advice = 'correct the fields that details.fields names';
}

export class BenchmarkError extends StatusError {
  override readonly advice = 'details.reason says why; try fewer or smaller batch sizes';
}

export class MonitoringError extends StatusError {
  override readonly advice = 'try again later';
}

export class AuthenticationError extends StatusError {
  override readonly advice = 'use another key: apiKey, or LILYPAD_API_KEY';
}

export class RateLimitError extends StatusError {
  override readonly advice = 'wait retryAfterMs milliseconds';
}

export class PermissionDeniedError extends StatusError {
  override readonly advice = 'use a key that has the scope details.scope, or switch v2 on';
}

export class NotFoundError extends StatusError {
  override readonly advice = 'check the id, and that it belongs to this account';
}

export class ConflictError extends StatusError {
  override readonly advice = 'leave the idempotency key out, or use a new one';
}

export class InternalError extends StatusError {
  override readonly advice = 'report requestId to the operators of the service';
}

export class UnavailableError extends StatusError {
  override readonly advice = 'try again in retryAfterMs milliseconds';
}

export const errorsByCode: Readonly<Record<number, typeof StatusError>> = {
  1001: InvalidModelError,
  1002: GenerationError,
  1003: InvalidRequestError,
  1004: BenchmarkError,
  1005: MonitoringError,
  2001: AuthenticationError,
  2002: RateLimitError,
  2003: PermissionDeniedError,
  3001: NotFoundError,
  3002: ConflictError,
  5001: InternalError,
  5003: UnavailableError,
};

/** The error of a code; a later service's codes are plain StatusErrors. */
export function statusError(
  refusal: Partial<Refusal> & { message: string; status: number },
): StatusError {
  return new (errorsByCode[refusal.code ?? 0] ?? StatusError)(refusal);
}
