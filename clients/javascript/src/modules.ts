/** Modules that run a model: generation, download, verification. */
import type { Call } from './call.ts';
import type { Connection } from './connection.ts';
import { ArchiveError, GenerationError, LilypadError } from './errors.ts';
import { failed } from './benchmarks.ts';
import { Job, waitAlone, type WaitOptions, type Work } from './jobs.ts';
import type { CallOptions } from './request.ts';
import type { GenerateRequest, Generation, Module, Verification } from './types.ts';

export class Modules {
  constructor(private readonly connection: Connection) {}

  /**
   * Generate the files of a module; with `verify`, wait until a worker has run it.
   *
   * An aborted signal cancels the verification.
   */
  async generate(
    request: GenerateRequest,
    { signal, waitTimeoutMs, ...options }: CallOptions & WaitOptions = {},
  ): Promise<Module> {
    if (!request.verify) {
      return this.connection.call('generate', { body: request, signal, ...options });
    }
    const job = await this.startVerification(request, { signal, ...options });
    return waitAlone(job, { signal, waitTimeoutMs });
  }

  /**
   * Generate a module, start a verification run, and return the run's handle.
   *
   * The module's files are there at once: `job.latest`.
   */
  async startVerification(
    request: GenerateRequest,
    options: CallOptions = {},
  ): Promise<Job<Module>> {
    const body = { ...request, verify: true };
    const headers = { Prefer: 'respond-async' };
    const module = await this.connection.call('generate', { body, headers, ...options });
    return new Job(new VerificationWork(this.connection), verification(module).id, module);
  }

  /** Return a module that was generated with `verify`. */
  getVerification(id: string, options: CallOptions = {}): Call<Module> {
    return this.connection.call('get_verification', { path: { id }, ...options });
  }

  /** Cancel a module's verification run; its files remain. */
  cancelVerification(id: string, options: CallOptions = {}): Call<Module> {
    return this.connection.call('cancel_verification', { path: { id }, ...options });
  }

  /** Yield generated modules, newest first, without their files. */
  async *list({
    pageSize = 100,
    ...options
  }: CallOptions & { pageSize?: number } = {}): AsyncGenerator<Generation> {
    for (let before: string | undefined; ; ) {
      const query = { limit: pageSize, before };
      const page = await this.connection.call('list_generations', { query, ...options });
      yield* page.generations;
      if (!page.next) return;
      before = page.next;
    }
  }

  /** Regenerate a listed module from the same commit with the same options. */
  again(generation: Generation, options: CallOptions = {}): Call<Module> {
    return this.connection.call('generate', { body: generation.request, ...options });
  }

  /** Download the module as a zip and check its digest. */
  async download(
    request: GenerateRequest,
    options: CallOptions = {},
  ): Promise<Uint8Array<ArrayBuffer>> {
    const reply = await this.connection.send('download', { body: request, ...options });
    if (!globalThis.crypto?.subtle) {
      throw new LilypadError('a page can check a download only over https; open it there');
    }
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', reply.content));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
    if (reply.headers.get('etag') !== `"${hex}"`) {
      throw new ArchiveError('the archive is incomplete or was changed: its digest differs');
    }
    return reply.content;
  }
}

class VerificationWork implements Work<Module> {
  constructor(private readonly connection: Connection) {}

  get(id: string, options: CallOptions): PromiseLike<Module> {
    return this.connection.call('get_verification', { path: { id }, ...options });
  }

  cancel(id: string, options: CallOptions = {}): PromiseLike<Module> {
    return this.connection.call('cancel_verification', { path: { id }, ...options });
  }

  state(latest: Module): string {
    return verification(latest).state;
  }

  check(latest: Module): void {
    const { error, id, state } = verification(latest);
    if (error) throw failed(error, id);
    if (state === 'canceled') {
      const details = { reason: 'canceled', id };
      const message = 'the verification was canceled';
      throw new GenerationError({ message, status: 422, code: 1002, details });
    }
  }
}

function verification(module: Module): Verification {
  if (!module.verification) throw new LilypadError('the service sent no verification');
  return module.verification;
}
