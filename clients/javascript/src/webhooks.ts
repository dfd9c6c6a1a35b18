/** Webhooks: addresses that receive events, and the deliveries to them. */
import type { Call } from './call.ts';
import type { Connection } from './connection.ts';
import type { CallOptions, Data } from './request.ts';
import type { Delivery, NewWebhook, Webhook, WebhookChange } from './types.ts';

/** Webhooks of the account. */
export class Webhooks {
  constructor(private readonly connection: Connection) {}

  /** List all webhooks, without their secrets. */
  list(options: CallOptions = {}): Call<Data<'list_webhooks'>> {
    return this.connection.call('list_webhooks', options);
  }

  /** Add a webhook; only this answer contains its secret. */
  add(webhook: NewWebhook, options: CallOptions = {}): Call<Webhook> {
    return this.connection.call('add_webhook', { body: webhook, ...options });
  }

  /** Change, disable or enable a webhook; omitted fields are unchanged. */
  change(id: string, change: WebhookChange, options: CallOptions = {}): Call<Webhook> {
    return this.connection.call('change_webhook', {
      path: { webhook_id: id },
      body: change,
      ...options,
    });
  }

  /** Remove a webhook and its delivery log. */
  remove(id: string, options: CallOptions = {}): Call<void> {
    return this.connection.call('remove_webhook', { path: { webhook_id: id }, ...options });
  }

  /** Create a new secret; for 24 hours, deliveries are signed with the former secret too. */
  rotateSecret(id: string, options: CallOptions = {}): Call<Webhook> {
    return this.connection.call('rotate_secret', { path: { webhook_id: id }, ...options });
  }

  /** Post an event of type `test`, and return the outcome. */
  test(id: string, options: CallOptions = {}): Call<Delivery> {
    return this.connection.call('try_webhook', { path: { webhook_id: id }, ...options });
  }

  /** Yield a webhook's deliveries, newest first, with every attempt. */
  async *deliveries(
    id: string,
    {
      state,
      pageSize = 100,
      ...options
    }: CallOptions & { state?: Delivery['state']; pageSize?: number } = {},
  ): AsyncGenerator<Delivery> {
    for (let before: string | undefined; ; ) {
      const { deliveries } = await this.connection.call('list_deliveries', {
        path: { webhook_id: id },
        query: { state, limit: pageSize, before },
        ...options,
      });
      yield* deliveries;
      if (deliveries.length < pageSize) return;
      before = deliveries.at(-1)?.id;
    }
  }

  /** Redeliver an event with the full number of attempts. */
  redeliver(id: string, delivery: string, options: CallOptions = {}): Call<Delivery> {
    return this.connection.call('redeliver', {
      path: { webhook_id: id, delivery_id: delivery },
      ...options,
    });
  }
}
