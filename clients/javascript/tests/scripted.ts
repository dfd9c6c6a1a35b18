/** A service that gives scripted answers in order, and records the requests. */
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Answer {
  status?: number;
  body?: string | Uint8Array;
  headers?: Record<string, string>;
  /** Close the connection without an answer. */
  reset?: boolean;
  /** Close it in the middle of the body. */
  half?: boolean;
  /** Never answer. */
  hang?: boolean;
}

export interface Asked {
  method: string;
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
}

export class Service {
  readonly answers: Answer[] = [];
  readonly asked: Asked[] = [];
  private readonly server: Server;

  private constructor() {
    this.server = createServer(async (request, response) => {
      let body = '';
      for await (const chunk of request) body += chunk;
      const { method = '', url: path = '', headers } = request;
      this.asked.push({ method, path, headers, body });
      const answer = this.answers.shift() ?? { status: 500, body: 'the test expected no request' };
      if (answer.hang) return;
      if (answer.reset) return void request.socket.destroy();
      const content = Buffer.from(answer.body ?? '');
      response.writeHead(answer.status ?? 200, {
        'X-Request-Id': 'req_12345678',
        ...(answer.status === 204 ? {} : { 'Content-Length': content.length }),
        ...answer.headers,
      });
      if (!answer.half) return void response.end(content);
      response.write(content.subarray(0, content.length / 2), () => request.socket.destroy());
    });
  }

  static async start(): Promise<Service> {
    const service = new Service();
    await new Promise<void>((ready) => service.server.listen(0, '127.0.0.1', ready));
    return service;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  answer(data: unknown, answer: Answer = {}): void {
    this.answers.push({ body: JSON.stringify({ data }), ...answer });
  }

  refuse(status: number, code: number, headers: Record<string, string> = {}): void {
    const error = { code, message: 'no', details: { why: 'because' } };
    this.answers.push({ status, body: JSON.stringify({ data: null, error, meta: {} }), headers });
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}
