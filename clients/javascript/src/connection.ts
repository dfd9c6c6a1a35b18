/** A client's connection to its service: address, credentials, version, retry policy. */
import { Call } from './call.ts';
import { ConnectionError, LilypadError, StatusError } from './errors.ts';
import { exchange, type Fetch, type Reply } from './exchange.ts';
import { build, type Data, type Name, type Parts, type Request, type Version } from './request.ts';
import { attempts, Budget, type Policy } from './retrying.ts';

const DEFAULT_URL = 'http://127.0.0.1:8080';
const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_RETRIES = 2;

export interface ClientOptions {
  /** The API key; by default the variable LILYPAD_API_KEY. */
  apiKey?: string | undefined;
  /** The service's address; by default LILYPAD_BASE_URL, or else this machine. */
  baseUrl?: string | undefined;
  /** Needed only by `account` and `keys`; `code` is a second factor's, valid for one call. */
  account?: Login | undefined;
  /** Deadline of a call, all its attempts together; by default 60,000. */
  timeoutMs?: number | undefined;
  /** Retries of a call where they are safe; by default 2. */
  maxRetries?: number | undefined;
  /** Accept a key or password in a browser, where everyone who opens the page can read it. */
  allowBrowser?: boolean | undefined;
  /** A replacement for the global `fetch`. */
  fetch?: Fetch | undefined;
}

/** The rate limit nearest to being reached, from the last answer. */
export interface RateLimit {
  limit: number;
  remaining: number;
  resetS: number;
}

export interface Login {
  email: string;
  password: string;
  code?: string | undefined;
}

interface Credentials {
  key: string | undefined;
  account: Login | undefined;
}

export class Connection {
  // Hidden from console.log.
  readonly #credentials: Credentials;

  private constructor(
    readonly baseUrl: string,
    credentials: Credentials,
    private readonly policy: Policy,
    private readonly version: Version,
    private readonly fetch: Fetch,
    private readonly limits: { last?: RateLimit },
  ) {
    this.#credentials = credentials;
  }

  get lastRateLimit(): RateLimit | undefined {
    return this.limits.last;
  }

  get timeoutMs(): number {
    return this.policy.timeoutMs;
  }

  get key(): string | undefined {
    return this.#credentials.key;
  }

  get account(): Credentials['account'] {
    return this.#credentials.account;
  }

  static open(options: ClientOptions): Connection {
    const variables = globalThis.process?.env ?? {};
    const key = options.apiKey || variables['LILYPAD_API_KEY'] || undefined;
    if (!key && !options.account) {
      throw new LilypadError('no API key: give apiKey, or set LILYPAD_API_KEY');
    }
    if (key && !/^[\x21-\x7e]+$/.test(key)) {
      throw new LilypadError('apiKey holds characters that no key has; copy it again');
    }
    if (inBrowser() && !options.allowBrowser) {
      throw new LilypadError(
        'everyone who opens this page could read the key: call the service from your server, ' +
          'or say allowBrowser: true where that is meant',
      );
    }
    const url = options.baseUrl || variables['LILYPAD_BASE_URL'] || DEFAULT_URL;
    if (!/^https?:\/\//.test(url) || !URL.canParse(url)) {
      throw new LilypadError(`baseUrl must be https://HOST or http://HOST, got ${url}`);
    }
    const fetch = options.fetch ?? ((url, init) => globalThis.fetch(url, init));
    const start = policy(options, {
      timeoutMs: DEFAULT_TIMEOUT_MS,
      maxRetries: DEFAULT_RETRIES,
      budget: new Budget(),
    });
    const credentials = { key, account: options.account };
    return new Connection(url.replace(/\/+$/, ''), credentials, start, 'v1', fetch, {});
  }

  /** Return a connection that shares rate limit and retry budget, with other options. */
  with(changes: { version?: Version; timeoutMs?: number; maxRetries?: number }): Connection {
    return new Connection(
      this.baseUrl,
      this.#credentials,
      policy(changes, this.policy),
      changes.version ?? this.version,
      this.fetch,
      this.limits,
    );
  }

  /** Send one request of an operation; its body is serialized immediately. */
  call<N extends Name>(name: N, parts: Parts = {}): Call<Data<N>> {
    return Call.of(() => this.send(name, parts), (reply) => this.parse<N>(reply));
  }

  send(name: Name, parts: Parts): Promise<Reply> {
    return this.exchange(this.request(name, parts));
  }

  private request(name: Name, parts: Parts): Request {
    const made = build(name, parts);
    const { operation } = made;
    const version = operation.versions.includes(this.version)
      ? this.version
      : (operation.versions[0] ?? 'v1');
    if (version === 'v2') made.headers['X-Lilypad-Beta'] = 'v2';
    Object.assign(made.headers, this.authorization(name, operation.credentials));
    return { ...made, path: `/${version}/api${made.path}` };
  }

  private async exchange(request: Request): Promise<Reply> {
    try {
      const reply = await attempts(request, this.policy, (leftMs) =>
        exchange(this.fetch, this.baseUrl + request.path, request, leftMs),
      );
      this.noteLimit(reply.headers);
      return reply;
    } catch (error) {
      if (error instanceof StatusError) this.noteLimit(error.headers);
      throw error;
    }
  }

  private authorization(name: string, credentials: 'key' | 'account' | null): object {
    if (credentials === 'key') {
      if (!this.key) throw new LilypadError(`${name} needs an API key: give apiKey`);
      return { Authorization: `Bearer ${this.key}` };
    }
    if (credentials === 'account') {
      if (!this.account) {
        throw new LilypadError(`${name} needs the password: give account: { email, password }`);
      }
      const pair = new TextEncoder().encode(`${this.account.email}:${this.account.password}`);
      const basic = `Basic ${btoa(String.fromCharCode(...pair))}`;
      const { code } = this.account;
      return { Authorization: basic, ...(code && { 'X-Lilypad-Code': code }) };
    }
    return {};
  }

  private parse<N extends Name>(reply: Reply): Data<N> {
    if (reply.status === 204) return undefined as Data<N>;
    try {
      const { data } = JSON.parse(new TextDecoder().decode(reply.content));
      if (data && typeof data === 'object') return data;
    } catch {
      // The error thrown below says what to do.
    }
    throw new ConnectionError(
      `${this.baseUrl} does not answer as a Lilypad Model Generator; is baseUrl right?`,
    );
  }

  private noteLimit(headers: Headers): void {
    const [limit, remaining, resetS] = ['limit', 'remaining', 'reset'].map((name) =>
      headers.get(`x-ratelimit-${name}`),
    );
    if (limit && remaining && resetS) {
      this.limits.last = {
        limit: Number(limit),
        remaining: Number(remaining),
        resetS: Number(resetS),
      };
    }
  }
}

function policy(changes: { timeoutMs?: number; maxRetries?: number }, old: Policy): Policy {
  const timeoutMs = changes.timeoutMs ?? old.timeoutMs;
  const maxRetries = changes.maxRetries ?? old.maxRetries;
  if (!(timeoutMs > 0)) throw new RangeError(`timeoutMs must be above 0, got ${timeoutMs}`);
  if (!(maxRetries >= 0)) throw new RangeError(`maxRetries must be 0 or more, got ${maxRetries}`);
  return { timeoutMs, maxRetries, budget: old.budget };
}

function inBrowser(): boolean {
  const scope = globalThis as { document?: unknown; importScripts?: unknown };
  return scope.document !== undefined || typeof scope.importScripts === 'function';
}
