/** Ways to make the real server end a request, for each row of the table of endings (src/observability/endings.ts). */
import { once } from 'node:events'
import { createServer as createHttpServer, request as httpRequest, type Server as HttpServer } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type LogLine, readFrames, ServerProcess } from './server-process.ts'
import { linesOf } from './trace-account.ts'

/** How an ending looked to the client. */
export interface Outcome {
  readonly traceId: string
  /** The status the client saw; null: none. */
  readonly sent: number | null
  /** The whole body, or the frames of the stream; null where the client did not wait for them. */
  readonly body: unknown
  readonly frames: readonly unknown[] | null
  /** The server's, where the way ends the server too. */
  readonly server?: ServerProcess
}

export interface Provocation {
  readonly how: string
  /** Values of `stream` it is tried with: an ending before the headers may strike either kind of request. */
  readonly streams: readonly boolean[]
  /** It takes a server of its own, or waits: the default level tries it with the first shape only. */
  readonly isCostly?: true
  readonly run: (world: World, stream: boolean) => Promise<Outcome>
}

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'
const KEY = { authorization: 'Bearer k' }
const LONG = { prompt: 'The river', max_tokens: 2000, ignore_eos: true }
const SHORT = { prompt: 'The river', max_tokens: 5 }
const BOTH = [false, true]

/** Spans arrive soon after their end: a second a test would add up. */
export const PROMPT_EXPORT = { OTEL_BSP_SCHEDULE_DELAY: '20' }

/** Loads a fault of test/e2e/faults into the server. */
export const fault = (name: string) => ({
  NODE_OPTIONS: `--import ${fileURLToPath(new URL(`./faults/${name}.mjs`, import.meta.url))}`,
})

let numTraces = 0
/** A trace of the caller's own: its id is known whatever comes back. */
export function newTrace(): { readonly traceId: string; readonly headers: Readonly<Record<string, string>> } {
  const traceId = `e2e${(++numTraces).toString(16).padStart(29, '0')}`
  return { traceId, headers: { traceparent: `00-${traceId}-00f067aa0ba902b7-01` } }
}

/** The servers, each started when first asked for, and what stands behind them. */
export class World {
  private readonly otlpUrl: string
  private readonly started = new Map<string, Promise<ServerProcess>>()
  private readonly owned: ServerProcess[] = []
  private readonly upstream = brokenUpstream()
  private readonly store = silentStore()

  constructor(otlpUrl: string) {
    this.otlpUrl = otlpUrl
  }

  /** Keys, bounds of the body and the queue, and a vector store that refuses connections. */
  plain = (): Promise<ServerProcess> =>
    this.server('plain', [
      '--api-key=k',
      '--max-request-bytes=100000',
      '--max-num-seqs=2',
      '--max-queued-requests=2',
      '--rag-store=pgvector',
      '--rag-store-url=postgres://127.0.0.1:1/none',
    ])

  /** Little time for a request, on a slow device. No keys. */
  hurried = (): Promise<ServerProcess> => this.server('hurried', ['--request-timeout=0.3', '--device=reference'])

  /** What its requests ask for fails, and its vector store is silent. */
  async faulty(): Promise<ServerProcess> {
    const store = ['--rag-store=pgvector', `--rag-store-url=${(await this.store).url}`]
    return this.server('faulty', store, fault('requests'))
  }

  /** A GPU that goes away: one that computes nothing, at the full level the adapter's. */
  gpu = (): Promise<ServerProcess> =>
    this.server('gpu', ['--device=webgpu'], {
      ...fault(isFull ? 'device' : 'absent-device'),
      MESA_SHADER_CACHE_DIR: join(homedir(), '.cache'),
    })

  /** Before an engine that fails or is silent; the watchdog is quick. */
  async remote(): Promise<ServerProcess> {
    return this.server('remote', [`--engine-url=${(await this.upstream).url}`, '--trace-leak-timeout=0.4'])
  }

  /** A KV pool too small for four sequences: they take turns. */
  crowded = (): Promise<ServerProcess> => this.server('crowded', ['--num-kv-blocks=24', '--max-model-len=256'])

  /** Starts the shared servers side by side; what is wrong with one, its first test will say. */
  warm(isWithGpu: boolean): void {
    const { plain, hurried, gpu, crowded } = this
    const starts = [plain(), hurried(), this.faulty(), crowded(), this.remote(), ...(isWithGpu ? [gpu()] : [])]
    void Promise.allSettled(starts)
  }

  /** Hangs up on everyone who waits for the silent store. */
  async hangUpStore(): Promise<void> {
    const { sockets } = await this.store
    for (const socket of sockets) socket.destroy()
  }

  /** A server of one test's own. */
  async own(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<ServerProcess> {
    const server = await ServerProcess.start(['--otlp-traces-endpoint', this.otlpUrl, ...args], {
      ...PROMPT_EXPORT,
      ...env,
    })
    this.owned.push(server)
    return server
  }

  async ownWithSilentStore(args: readonly string[]): Promise<ServerProcess> {
    return this.own([...args, '--rag-store=pgvector', `--rag-store-url=${(await this.store).url}`])
  }

  /** A server that waits for its upstream's model list, for as long as `run` takes. */
  async whileLoading<T>(run: (server: ServerProcess) => Promise<T>): Promise<T> {
    const upstream = await listening(createHttpServer())
    const asked = once(upstream, 'request')
    const url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/v1`
    const args = ['--otlp-traces-endpoint', this.otlpUrl, `--engine-url=${url}`]
    const server = new ServerProcess(args, PROMPT_EXPORT)
    this.owned.push(server)
    await server.listening()
    await Promise.race([asked, server.exited])
    try {
      return await run(server)
    } finally {
      await server.stop()
      upstream.closeAllConnections()
      upstream.close()
    }
  }

  private server(name: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    let server = this.started.get(name)
    if (!server) {
      server = ServerProcess.start(['--otlp-traces-endpoint', this.otlpUrl, ...args], { ...PROMPT_EXPORT, ...env })
      this.started.set(name, server)
    }
    return server
  }

  /** The lines of a trace in the logs of all servers, once the last one has come. */
  async logLines(traceId: string): Promise<LogLine[]> {
    const servers = [...(await Promise.all(this.started.values())), ...this.owned]
    return linesOf(servers, traceId)
  }

  /** Stops every server; all that ever ran. */
  async stop(): Promise<readonly ServerProcess[]> {
    const servers = [...(await Promise.all(this.started.values())), ...this.owned]
    await Promise.all(servers.map((server) => server.stop()))
    const [upstream, store] = await Promise.all([this.upstream, this.store])
    upstream.server.closeAllConnections()
    upstream.server.close()
    for (const socket of store.sockets) socket.destroy()
    store.server.close()
    return servers
  }
}

/** Sends a request and reads its answer to the end. */
async function sent(
  server: ServerProcess,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
  path = '/v1/completions',
): Promise<Outcome> {
  const trace = newTrace()
  return answered(trace.traceId, await server.post(path, body, { ...trace.headers, ...headers }))
}

async function answered(traceId: string, response: Response): Promise<Outcome> {
  const isStream = response.headers.get('content-type')?.startsWith('text/event-stream') ?? false
  const frames = isStream ? await readFrames(response) : null
  return { traceId, sent: response.status, frames, body: isStream ? null : await response.json() }
}

/** A long request that is under way: decoding, or with `stream` answered. */
async function running(server: ServerProcess, stream: boolean, headers: Readonly<Record<string, string>> = {}) {
  const trace = newTrace()
  const abort = new AbortController()
  const response = server.post('/v1/completions', { ...LONG, stream }, { ...trace.headers, ...headers }, abort.signal)
  await server.waitForLog((line) => line.trace_id === trace.traceId && line.msg === 'prefill.done')
  return { traceId: trace.traceId, response, abort }
}

const gone = (traceId: string, status: number | null): Outcome => ({ traceId, sent: status, body: null, frames: null })

/** Every way by the row's path. A row without one fails the test. */
export const PROVOCATIONS: Readonly<Record<string, readonly Provocation[]>> = {
  success: [
    { how: 'a completion', streams: [false], run: async (world) => sent(await world.plain(), SHORT, KEY) },
    {
      how: 'a chat',
      streams: [false],
      run: async (world) =>
        sent(
          await world.plain(),
          { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 5 },
          KEY,
          '/v1/chat/completions',
        ),
    },
  ],
  'success, streamed': [
    {
      how: 'a completion',
      streams: [true],
      run: async (world, stream) => sent(await world.plain(), { ...SHORT, stream }, KEY),
    },
    {
      how: 'a chat',
      streams: [true],
      run: async (world, stream) =>
        sent(
          await world.plain(),
          { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 5, stream },
          KEY,
          '/v1/chat/completions',
        ),
    },
  ],
  validation: [
    ...(
      [
        ['a wrong type', { prompt: 7 }],
        ['another model', { prompt: 'x', model: 'gpt-5' }],
        ['a prompt longer than the context', { prompt: Array.from({ length: 20_000 }, () => 5) }],
        ['a body over the bound', { prompt: 'x'.repeat(100_001) }],
        ['an index that is not there', { prompt: 'x', rag: { index: 'no/index' } }],
      ] as const
    ).map(([how, body]) => ({
      how,
      streams: BOTH,
      run: async (world: World, stream: boolean) => sent(await world.plain(), { ...body, stream }, KEY),
    })),
    { how: 'a broken body', streams: [false], run: async (world) => sent(await world.plain(), '{"prompt": ', KEY) },
    {
      how: 'a chat without messages',
      streams: BOTH,
      run: async (world, stream) => sent(await world.plain(), { messages: [], stream }, KEY, '/v1/chat/completions'),
    },
  ],
  auth: [
    {
      how: 'an unknown key',
      streams: BOTH,
      run: async (world, stream) => sent(await world.plain(), { ...SHORT, stream }, { authorization: 'Bearer wrong' }),
    },
    {
      how: "another site's page",
      streams: BOTH,
      run: async (world, stream) =>
        sent(await world.hurried(), { ...SHORT, stream }, { origin: 'https://elsewhere.example' }),
    },
  ],
  'refused: queue full': [
    {
      how: 'more requests than run and wait',
      streams: BOTH,
      async run(world, stream) {
        const server = await world.plain()
        const abort = new AbortController()
        try {
          for (;;) {
            const trace = newTrace()
            const headers = { ...trace.headers, ...KEY }
            const full = await server.post('/v1/completions', { ...LONG, stream: true }, headers, abort.signal)
            if (full.status !== 429) continue
            // One of those that ran may just have ended.
            const outcome = await sent(server, { ...SHORT, stream }, KEY)
            if (outcome.sent === 429) return outcome
          }
        } finally {
          abort.abort()
        }
      },
    },
  ],
  'refused: draining, loading': [
    {
      how: 'while the model loads',
      isCostly: true,
      streams: BOTH,
      run: async (world, stream) => world.whileLoading((server) => sent(server, { ...SHORT, stream })),
    },
    {
      how: 'while the server drains',
      isCostly: true,
      streams: BOTH,
      async run(world, stream) {
        const server = await world.own(['--device=reference'])
        const { abort, response } = await running(server, true)
        server.signal('SIGTERM')
        await server.waitForLog((line) => line.msg === 'server.draining')
        const outcome = await sent(server, { ...SHORT, stream })
        await response
        abort.abort()
        await server.exited
        return outcome
      },
    },
  ],
  'client gone before headers': [
    {
      how: 'while it decodes',
      streams: [false],
      async run(world, stream) {
        const { traceId, response, abort } = await running(await world.plain(), stream, KEY)
        abort.abort()
        await response.catch(() => {})
        return gone(traceId, null)
      },
    },
    {
      how: 'while its body is read',
      streams: [false],
      async run(world) {
        const server = await world.plain()
        const { traceId, headers } = newTrace()
        const request = httpRequest(`${server.url}/v1/completions`, {
          method: 'POST',
          headers: { ...headers, ...KEY, 'content-length': '1000' },
        })
        request.on('error', () => {})
        request.write('{"prompt":')
        await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'request.received')
        request.destroy()
        return gone(traceId, null)
      },
    },
    {
      how: 'while it retrieves',
      streams: BOTH,
      async run(world, stream) {
        const server = await world.faulty()
        const { traceId, headers } = newTrace()
        const abort = new AbortController()
        const body = { ...SHORT, stream, rag: true }
        const response = server.post('/v1/completions', body, headers, abort.signal).catch(() => {})
        await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'input.tokenized')
        abort.abort()
        await response
        // Two round trips: the server has seen the connection close before the store fails it.
        for (let i = 0; i < 2; i++) await server.get('/health')
        await world.hangUpStore()
        return gone(traceId, null)
      },
    },
  ],
  'client gone in the stream': [
    {
      how: 'after the first frame',
      streams: [true],
      async run(world, stream) {
        const { traceId, response, abort } = await running(await world.plain(), stream, KEY)
        await (await response).body?.getReader().read()
        abort.abort()
        return gone(traceId, 200)
      },
    },
    {
      how: 'without reading a byte',
      streams: [true],
      async run(world, stream) {
        const { traceId, response, abort } = await running(await world.plain(), stream, KEY)
        await response
        abort.abort()
        return gone(traceId, 200)
      },
    },
  ],
  'consumer closed the generator early (`return()`)': [
    {
      how: 'a response that something else ends',
      streams: [true],
      run: async (world, stream) => sent(await world.faulty(), { ...LONG, stream }, { 'x-fault': 'end' }),
    },
  ],
  deadline: [
    {
      how: 'a long answer',
      streams: [false],
      run: async (world, stream) => sent(await world.hurried(), { ...LONG, stream }),
    },
  ],
  'deadline, in the stream': [
    {
      how: 'a long answer',
      streams: [true],
      run: async (world, stream) => sent(await world.hurried(), { ...LONG, stream }),
    },
  ],
  'engine error': [
    {
      how: 'with the vector store down',
      streams: BOTH,
      run: async (world, stream) => sent(await world.plain(), { ...SHORT, rag: true, stream }, KEY),
    },
    {
      how: 'an upstream that answers 500',
      streams: BOTH,
      run: async (world, stream) => sent(await world.remote(), { prompt: 'fail', stream }),
    },
  ],
  'engine error, in the stream': [
    {
      how: 'an upstream that breaks off',
      streams: [true],
      run: async (world, stream) => sent(await world.remote(), { prompt: 'break', stream }),
    },
  ],
  'device lost': [{ how: 'while it decodes', streams: [false], run: deviceLost }],
  'device lost, in the stream': [{ how: 'while it decodes', streams: [true], run: deviceLost }],
  'write failure, uncaught': [
    {
      how: 'a handler that throws',
      streams: BOTH,
      run: async (world, stream) => sent(await world.faulty(), { ...SHORT, stream }, { 'x-fault': 'handler' }),
    },
    {
      how: 'a body that cannot be written',
      streams: [false],
      run: async (world) => sent(await world.faulty(), { ...SHORT, prompt: 'unserializable', echo: true }),
    },
  ],
  'write failure, uncaught, in the stream': [
    {
      how: 'a frame that cannot be written',
      streams: [true],
      run: async (world, stream) =>
        sent(await world.faulty(), { ...SHORT, prompt: 'unserializable', echo: true, stream }),
    },
  ],
  'shutdown bound passed': [{ how: 'a long answer', streams: [false], run: shutDown }],
  'shutdown bound passed, in the stream': [{ how: 'a long answer', streams: [true], run: shutDown }],
  'process ended before an answer': [
    {
      how: 'a store that nobody can interrupt',
      streams: [false],
      async run(world) {
        const server = await world.ownWithSilentStore(['--shutdown-timeout=0.2'])
        const { traceId, headers } = newTrace()
        const response = server.get('/v1/rag/documents/a?index=b', headers).catch(() => {})
        await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'request.received')
        server.signal('SIGTERM')
        await response
        await server.exited
        return gone(traceId, null)
      },
    },
  ],
  'process crashed': [
    { how: 'by an exception', streams: BOTH, isCostly: true, run: (world, stream) => crashed(world, stream, 'crash') },
    {
      how: 'by a rejection',
      streams: [true],
      isCostly: true,
      run: (world, stream) => crashed(world, stream, 'reject'),
    },
  ],
  watchdog: [
    {
      how: 'an engine that says nothing more',
      streams: BOTH,
      async run(world, stream) {
        const server = await world.remote()
        const { traceId, headers } = newTrace()
        const abort = new AbortController()
        const response = server.post('/v1/completions', { prompt: 'hang', stream }, headers, abort.signal)
        await server.waitForLog((line) => line.trace_id === traceId && line.msg === 'trace.leak')
        abort.abort()
        await response.catch(() => {})
        return gone(traceId, null)
      },
    },
  ],
}

/** A request that runs when the process ends by an error of nobody's. */
async function crashed(world: World, stream: boolean, how: 'crash' | 'reject'): Promise<Outcome> {
  const server = await world.own([], fault('requests'))
  const { traceId, response } = await running(server, stream)
  const answer = response.then((given) => given.text()).catch(() => {})
  await server.get('/health', { 'x-fault': how }).catch(() => {})
  const { code } = await server.exited
  await answer
  const line = server.logs.find(({ msg }) => msg === 'process.crashed')
  if (code !== 1 || line === undefined)
    throw new Error(`expected exit code 1 and a line process.crashed, found ${code}`)
  return gone(traceId, null)
}

async function deviceLost(world: World, stream: boolean): Promise<Outcome> {
  const server = await world.gpu()
  const { traceId, response } = await running(server, stream)
  await server.get('/health', { 'x-fault': 'device' })
  return answered(traceId, await response)
}

async function shutDown(world: World, stream: boolean): Promise<Outcome> {
  const server = await world.own(['--shutdown-timeout=0.2', '--device=reference'])
  const { traceId, response } = await running(server, stream)
  server.signal('SIGTERM')
  const outcome = await answered(traceId, await response)
  await server.exited
  return outcome
}

async function listening<T extends Server>(server: T): Promise<T> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

/** An OpenAI-compatible engine that answers 500, or begins a stream and breaks it, or is silent: as the prompt says. */
export async function brokenUpstream(): Promise<{ readonly server: HttpServer; readonly url: string }> {
  const server = createHttpServer((request, response) => {
    if (request.url?.endsWith('/models')) {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ object: 'list', data: [{ id: 'up', object: 'model', max_model_len: 100 }] }))
      return
    }
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      if (body.includes('hang')) return
      if (body.includes('fail')) {
        response.statusCode = 500
        response.end('no')
        return
      }
      response.setHeader('content-type', 'text/event-stream')
      response.write(
        `data: ${JSON.stringify({ id: 'a', object: 'text_completion', choices: [{ index: 0, text: 'x', finish_reason: null }] })}\n\n`,
      )
      setImmediate(() => response.destroy())
    })
  })
  await listening(server)
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` }
}

/** A database that accepts connections and never says a word. */
async function silentStore(): Promise<{
  readonly server: Server
  readonly sockets: ReadonlySet<Socket>
  readonly url: string
}> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
  })
  await listening(server)
  return { server, sockets, url: `postgres://127.0.0.1:${(server.address() as AddressInfo).port}/none` }
}
