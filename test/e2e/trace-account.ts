/**
 * What a request left in its trace, in the log and with the client, held against each other. Written from docs/span-contract.md and not
 * from the contract's table, so that a mistake in the table shows.
 */
import type { ReceivedSpan, WireValue } from './otlp-receiver.ts'
import type { LogLine, ServerProcess } from './server-process.ts'

/** A request as everyone saw it. */
export interface Account {
  /** Spans and log lines of its trace. */
  readonly spans: readonly ReceivedSpan[]
  readonly lines: readonly LogLine[]
  /** The status that the client saw; null: none; absent: unknown. */
  readonly status?: number | null
  /** The answer as the client read it: JSON, or the frames of a stream. */
  readonly text?: string
}

const PARENTS: Readonly<Record<string, readonly string[]>> = {
  'tokenize.input': ['http.handler'],
  'rag.retrieve': ['http.handler'],
  'embed.query': ['rag.retrieve', 'http.handler'],
  'vector.search': ['rag.retrieve', 'http.handler'],
  rerank: ['rag.retrieve', 'http.handler'],
  'llm.prefill': ['http.handler'],
  'llm.decode': ['http.handler'],
  'format.output': ['http.handler'],
}
/** Stages that follow each other. */
const STAGES = ['tokenize.input', 'rag.retrieve', 'llm.prefill', 'llm.decode']
const RETRIEVAL = ['embed.query', 'vector.search', 'rerank']
const STAGE_LINES: Readonly<Record<string, string>> = {
  'tokenize.input': 'input.tokenized',
  'rag.retrieve': 'rag.retrieved',
  'llm.prefill': 'prefill.done',
  'llm.decode': 'decode.done',
}
const LAST_LINES = ['response.sent', 'request.refused', 'request.aborted', 'request.failed']
/** Times in the log are rounded to microseconds. */
const ROUNDING_MS = 0.002

/** The lines of a trace in the logs of servers, once the last one has come or all servers have exited. */
export async function linesOf(servers: readonly ServerProcess[], traceId: string): Promise<LogLine[]> {
  for (;;) {
    const lines = servers.flatMap(({ logs }) => logs.filter((line) => line.trace_id === traceId))
    const open = servers.filter(({ isOpen }) => isOpen)
    if (open.length === 0 || lines.some(({ msg }) => LAST_LINES.includes(msg))) return lines
    await Promise.race(open.map((server) => server.moreLogs()))
  }
}

/** The plain value of an attribute; undefined: absent. */
export function valueOf(span: ReceivedSpan | undefined, key: string): string | number | boolean | undefined {
  const value: WireValue | undefined = span?.attributes[key]
  if (value === undefined) return undefined
  if (value.intValue !== undefined && value.intValue !== null) return Number(String(value.intValue))
  return value.stringValue ?? value.doubleValue ?? value.boolValue ?? undefined
}

/** What does not agree, one sentence each; empty if the account is consistent. */
export function contradictions(account: Account): string[] {
  return new Comparison(account).run()
}

class Comparison {
  readonly #account: Account
  readonly #found: string[] = []

  constructor(account: Account) {
    // Spans of extensions and of calls to other servers are not in the contract.
    this.#account = { ...account, spans: account.spans.filter(({ scope }) => scope === 'lynx-cortex.miniserve') }
  }

  run(): string[] {
    const { spans } = this.#account
    const roots = spans.filter(({ name }) => name === 'http.handler')
    this.#same('number of roots', roots.length, 1)
    const [root] = roots
    if (!root) return this.#found
    this.#compareTree()
    this.#compareTimes()
    this.#compareEnding(root)
    this.#compareTokens(root)
    this.#compareLog(root)
    this.#compareAnswer(root)
    return this.#found
  }

  #same(what: string, found: unknown, expected: unknown): void {
    if (found !== expected) this.#found.push(`${what}: expected ${String(expected)}, found ${String(found)}`)
  }

  #require(isTrue: boolean, what: string): void {
    if (!isTrue) this.#found.push(what)
  }

  #span(name: string): ReceivedSpan | undefined {
    return this.#account.spans.find((span) => span.name === name)
  }

  #compareTree(): void {
    const { spans } = this.#account
    this.#same('trace ids', new Set(spans.map(({ traceId }) => traceId)).size, 1)
    this.#same('span ids', new Set(spans.map(({ spanId }) => spanId)).size, spans.length)
    this.#same('span names', new Set(spans.map(({ name }) => name)).size, spans.length)
    for (const span of spans) {
      this.#same(`${span.name}: service`, span.resource['service.name']?.stringValue, 'miniserve')
      if (span.name === 'http.handler') {
        this.#same('http.handler: kind', span.kind, 'SPAN_KIND_SERVER')
        continue
      }
      this.#same(`${span.name}: kind`, span.kind, 'SPAN_KIND_INTERNAL')
      const parent = spans.find(({ spanId }) => spanId === span.parentSpanId)
      const [first] = (PARENTS[span.name] ?? []).filter((name) => this.#span(name))
      this.#same(`${span.name}: parent`, parent?.name, first ?? 'a span of the contract')
    }
  }

  #compareTimes(): void {
    const { spans } = this.#account
    for (const span of spans) {
      this.#require(span.start <= span.end, `${span.name} ends before it starts`)
      const parent = spans.find(({ spanId }) => spanId === span.parentSpanId)
      if (parent)
        this.#require(span.start >= parent.start && span.end <= parent.end, `${span.name} is not inside ${parent.name}`)
      for (const [i, { name, time }] of span.events.entries()) {
        this.#require(time >= span.start && time <= span.end, `${span.name}: ${name} is outside`)
        this.#require(time >= (span.events[i - 1]?.time ?? 0n), `${span.name}: ${name} is out of order`)
      }
    }
    for (const order of [STAGES, RETRIEVAL]) {
      const present = order.flatMap((name) => this.#span(name) ?? [])
      for (const [i, { name, start }] of present.entries()) {
        const before = present[i - 1]
        if (before) this.#require(before.end <= start, `${name} starts before the end of ${before.name}`)
      }
    }
    const decode = this.#span('llm.decode')
    if (decode) this.#same('llm.prefill ends where llm.decode starts', this.#span('llm.prefill')?.end, decode.start)
  }

  #compareEnding(root: ReceivedSpan): void {
    const names = root.events.map(({ name }) => name)
    this.#same('first event', names[0], 'request.arrived')
    const ends = names.filter((name) => name === 'request.departed' || name === 'request.aborted')
    this.#same('number of end events', ends.length, 1)
    this.#same('last event', names.at(-1), ends[0])
    for (const span of this.#account.spans) {
      const isError = span.status === 'STATUS_CODE_ERROR'
      const hasType = span.attributes['error.type'] !== undefined
      const isRefusal = span === root && ends[0] === 'request.aborted' && !isError
      this.#require(isRefusal ? hasType : hasType === isError, `${span.name}: ${span.status}, error.type ${hasType}`)
    }
    const status = valueOf(root, 'http.status_code')
    const seen = this.#account.status
    if (seen === undefined) return
    if (seen !== null) this.#same('http.status_code', status, seen)
    else this.#require(status === undefined || status === 499, `http.status_code ${status} where nothing was sent`)
    if (ends[0] === 'request.departed') this.#require(status === 200 || status === 202, `${status} on a success`)
  }

  #compareTokens(root: ReceivedSpan): void {
    const out = valueOf(root, 'llm.tokens.out')
    const prefill = this.#span('llm.prefill')
    for (const name of ['llm.decode', 'format.output']) {
      const span = this.#span(name)
      if (span && out !== undefined) this.#same(`${name}: llm.tokens.out`, valueOf(span, 'llm.tokens.out'), out)
    }
    if (!prefill) return
    const tokensIn = valueOf(prefill, 'llm.tokens.in')
    const sum = Number(valueOf(prefill, 'llm.cache.hits')) + Number(valueOf(prefill, 'llm.cache.misses'))
    this.#same('llm.cache.hits + misses', sum, tokensIn)
    if (out !== undefined) this.#same('http.handler: llm.tokens.in', valueOf(root, 'llm.tokens.in'), tokensIn)
  }

  #compareLog(root: ReceivedSpan): void {
    const { spans, lines } = this.#account
    for (const line of lines) {
      this.#require(
        spans.some(({ spanId }) => spanId === line.span_id),
        `${line.msg}: span_id ${line.span_id} is no span of the trace`,
      )
      const requestId = line['request_id']
      if (requestId !== undefined) this.#same(`${line.msg}: request_id`, requestId, valueOf(root, 'llm.request.id'))
    }
    this.#same('first line', lines[0]?.msg, 'request.received')
    const lasts = lines.filter(({ msg }) => LAST_LINES.includes(msg))
    this.#same('number of last lines', lasts.length, 1)
    const [last] = lasts
    const end = root.events.find(({ name }) => name === 'request.departed' || name === 'request.aborted')
    this.#same('last line of a success', last?.msg === 'response.sent', end?.name === 'request.departed')
    this.#same('reason', last?.['reason'], end?.attributes['reason']?.stringValue ?? undefined)
    this.#same('status', last?.['status'], valueOf(root, 'http.status_code'))
    this.#same('route', last?.['route'], valueOf(root, 'http.route'))
    this.#near('duration', last, root)
    for (const [field, key] of [
      ['tokens_in', 'llm.tokens.in'],
      ['tokens_out', 'llm.tokens.out'],
    ] as const) {
      const value = valueOf(root, key)
      if (value !== undefined) this.#same(`last line: ${field}`, last?.[field] ?? 0, value)
    }
    for (const [name, event] of Object.entries(STAGE_LINES)) {
      const span = this.#span(name)
      const line = lines.find(({ msg }) => msg === event)
      // A decode that was cut short tells how far it came.
      const isExpected = span !== undefined && (name === 'llm.decode' || span.attributes['error.type'] === undefined)
      this.#same(`a line ${event}`, line !== undefined, isExpected)
      if (!span || !line) continue
      this.#same(`${event}: span_id`, line.span_id, span.spanId)
      // A span ends with its request at the latest.
      if (span.end < root.end) this.#near(event, line, span)
    }
  }

  #near(what: string, line: LogLine | undefined, span: ReceivedSpan): void {
    const logged = Number(line?.['duration_ms'])
    const recorded = Number(span.end - span.start) / 1e6
    this.#require(
      Math.abs(logged - recorded) <= ROUNDING_MS,
      `${what}: ${logged} ms in the log, ${recorded} ms on the span`,
    )
  }

  /** The answer's id and token counts. */
  #compareAnswer(root: ReceivedSpan): void {
    const { text } = this.#account
    if (text === undefined) return
    const id = /"id":\s*"((?:cmpl|chatcmpl|resp|msg)[-_][0-9a-zA-Z]+)"/.exec(text)?.[1]
    if (id !== undefined) this.#same('id of the answer', id, valueOf(root, 'llm.request.id'))
    const last = (field: RegExp) => [...text.matchAll(field)].at(-1)?.[1]
    const out = valueOf(root, 'llm.tokens.out')
    const usageOut = last(/"(?:completion|output)_tokens":\s*(\d+)/g)
    const usageIn = last(/"(?:prompt|input)_tokens":\s*(\d+)/g)
    const isServed = root.events.some(({ name }) => name === 'request.departed')
    // A stream that broke off has not told the final count.
    if (isServed && out !== undefined) this.#same('output tokens in usage', Number(usageOut), out)
    const input = valueOf(root, 'llm.tokens.in') ?? valueOf(root, 'gen_ai.usage.input_tokens')
    // Anthropic counts what the cache served apart.
    const cached = Number(last(/"cache_read_input_tokens":\s*(\d+)/g) ?? 0)
    if (usageIn !== undefined && usageIn !== '0') this.#same('input tokens in usage', Number(usageIn) + cached, input)
  }
}
