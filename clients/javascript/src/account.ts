/** The account and its keys. Requires the account's password: `account: { email, password }`. */
import type { Call } from './call.ts';
import type { Connection } from './connection.ts';
import { LilypadError } from './errors.ts';
import type { CallOptions, Data } from './request.ts';
import type * as types from './types.ts';

/** Operations on the account whose credentials the client has. */
export class Account {
  constructor(private readonly connection: Connection) {}

  /** Register the account. Then create a key: `client.keys.create({ name: 'laptop' })`. */
  register(options: CallOptions = {}): Call<types.Account> {
    const { account } = this.connection;
    if (!account) throw new LilypadError('register needs account: { email, password }');
    const { email, password } = account;
    return this.connection.call('register', { body: { email, password }, ...options });
  }

  /** Return the account. */
  get(options: CallOptions = {}): Call<types.AccountFacts> {
    return this.connection.call('get_account', options);
  }

  /** Enable or disable the beta (v2) for all of the account's keys. */
  change(change: types.AccountChange, options: CallOptions = {}): Call<types.AccountFacts> {
    return this.connection.call('change_account', { body: change, ...options });
  }

  /** Create a short-lived token that a web page's socket presents instead of an API key. */
  createSocketToken(options: CallOptions = {}): Call<types.SocketToken> {
    return this.connection.call('create_socket_token', options);
  }

  /** Change the password and end other sessions. Then create a client with the new one. */
  changePassword(change: { current: string; new: string }, options: CallOptions = {}): Call<void> {
    return this.connection.call('change_password', { body: change, ...options });
  }

  /** List the account's sessions, newest first. */
  listSessions(options: CallOptions = {}): Call<Data<'list_sessions'>> {
    return this.connection.call('list_sessions', options);
  }

  /** End a session and close its sockets. */
  endSession(id: string, options: CallOptions = {}): Call<void> {
    return this.connection.call('end_session', { path: { session_id: id }, ...options });
  }

  /** Delete the account and all its data. This cannot be undone. */
  delete(options: CallOptions = {}): Call<void> {
    const body = { password: this.password('delete') };
    return this.connection.call('delete_account', { body, ...options });
  }

  /** Create a secret for an authenticator app; `confirmTotp` then enables the second factor. */
  startTotp(options: CallOptions = {}): Call<types.TotpSecret> {
    const body = { password: this.password('startTotp') };
    return this.connection.call('start_totp', { body, ...options });
  }

  /** Enable the second factor with the app's first code. Store the returned recovery codes. */
  confirmTotp(code: string, options: CallOptions = {}): Call<types.RecoveryCodes> {
    return this.connection.call('confirm_totp', { body: { code }, ...options });
  }

  /** Disable the second factor. Requires `account: { email, password, code }`. */
  stopTotp(options: CallOptions = {}): Call<void> {
    const body = { password: this.password('stopTotp') };
    return this.connection.call('stop_totp', { body, ...options });
  }

  /** Store a Hub token, which gives access to this account's private models. */
  storeHubToken(token: string, options: CallOptions = {}): Call<types.StoredHubToken> {
    return this.connection.call('store_hub_token', { body: { token }, ...options });
  }

  /** Check whether the Hub still accepts the stored token. */
  checkHubToken(options: CallOptions = {}): Call<types.StoredHubToken> {
    return this.connection.call('check_hub_token', options);
  }

  /** Delete the stored Hub token. */
  deleteHubToken(options: CallOptions = {}): Call<void> {
    return this.connection.call('delete_hub_token', options);
  }

  /** Request an email with a link for setting a new password. */
  requestReset(email: string, options: CallOptions = {}): Call<void> {
    return this.connection.call('request_reset', { body: { email }, ...options });
  }

  /** Set a new password with the token from the link, and end all sessions. */
  confirmReset(reset: { token: string; new: string }, options: CallOptions = {}): Call<void> {
    return this.connection.call('confirm_reset', { body: reset, ...options });
  }

  private password(name: string): string {
    const { account } = this.connection;
    if (!account) throw new LilypadError(`${name} needs account: { email, password }`);
    return account.password;
  }
}

/** API keys of the account. */
export class Keys {
  constructor(private readonly connection: Connection) {}

  /** Yield the number of requests per key and day. Requires an API key. */
  async *usage({
    days,
    pageSize = 100,
    ...options
  }: CallOptions & { days?: number; pageSize?: number } = {}): AsyncGenerator<types.KeyUsage> {
    for (let before: string | undefined; ; ) {
      const query = { days, limit: pageSize, before };
      const { usage, next } = await this.connection.call('list_usage', { query, ...options });
      yield* usage;
      if (!next) return;
      before = next;
    }
  }

  /** Create an API key. Only this answer contains it. */
  create(key: types.NewKey, options: CallOptions = {}): Call<types.CreatedKey> {
    return this.connection.call('create_key', { body: key, ...options });
  }

  /** List the account's keys, without their secrets. */
  list(options: CallOptions = {}): Call<Data<'list_keys'>> {
    return this.connection.call('list_keys', options);
  }

  /** Return a key. */
  get(id: string, options: CallOptions = {}): Call<types.Key> {
    return this.connection.call('get_key', { path: { key_id: id }, ...options });
  }

  /** Rename a key, or change its scopes or expiry; omitted fields are unchanged. */
  change(id: string, change: Partial<types.KeyChange>, options: CallOptions = {}): Call<types.Key> {
    return this.connection.call('change_key', { path: { key_id: id }, body: change, ...options });
  }

  /** Revoke a key: every replica refuses it from then on, and its sockets are closed. */
  revoke(id: string, options: CallOptions = {}): Call<void> {
    return this.connection.call('revoke_key', { path: { key_id: id }, ...options });
  }
}
