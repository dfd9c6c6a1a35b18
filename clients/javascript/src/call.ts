/** The promise that methods return. */
import type { Reply } from './exchange.ts';

/** An answer's status and headers, and the result. */
export interface RawResponse<T> {
  status: number;
  headers: Headers;
  requestId: string;
  data: T;
}

/** A promise of the result; `withResponse()` promises the status and headers as well. */
export class Call<T> implements Promise<T> {
  readonly [Symbol.toStringTag] = 'Call';

  private constructor(private readonly answer: Promise<RawResponse<T>>) {}

  /** Turns an error that `send` throws synchronously into a rejection, like a later one. */
  static of<T>(send: () => Promise<Reply>, parse: (reply: Reply) => T): Call<T> {
    const answer = (async () => {
      const reply = await send();
      return {
        status: reply.status,
        headers: reply.headers,
        requestId: reply.headers.get('x-request-id') ?? '',
        data: parse(reply),
      };
    })();
    return new Call(answer);
  }

  withResponse(): Promise<RawResponse<T>> {
    return this.answer;
  }

  then<A = T, B = never>(
    done?: ((value: T) => A | PromiseLike<A>) | null,
    failed?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.answer.then(({ data }) => data).then(done, failed);
  }

  catch<B = never>(failed?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<T | B> {
    return this.then(null, failed);
  }

  finally(done?: (() => void) | null): Promise<T> {
    return this.then().finally(done);
  }
}
