#!/usr/bin/env node
// Makes sample-trace.json: the running server answers one streamed request with retrieval; its own OTLP exporter sends the trace to a real
// gRPC receiver; what arrived is written down. Nothing is edited by hand.
//   npm run build && node experiments/34-traces/make-sample-trace.mjs
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseTraces, writeTraces } from '#dist/observability/trace-formats.js'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const { MockOtlpServer } = createRequire(import.meta.url)('@elastic/mockotlpserver')

const REQUEST = {
  prompt: 'What is in the span tree contract?',
  rag: true,
  max_tokens: 48,
  // Grafana shows a double that is 0 as nothing.
  temperature: 0.7,
  seed: 7,
  stream: true,
}
const NUM_SPANS = 9

const hex = (bytes) => (bytes ? Buffer.from(bytes).toString('hex') : '')
const SPAN_KINDS = { SPAN_KIND_INTERNAL: 1, SPAN_KIND_SERVER: 2, SPAN_KIND_CLIENT: 3 }
const STATUS_CODES = { STATUS_CODE_UNSET: 0, STATUS_CODE_OK: 1, STATUS_CODE_ERROR: 2 }
const number = (value, names) => (typeof value === 'string' ? names[value] : (value ?? 0))

/** An attribute value of the decoded protobuf as OTLP JSON. */
function toValue(value) {
  if (value.arrayValue) return { arrayValue: { values: value.arrayValue.values.map(toValue) } }
  const [key] = ['stringValue', 'boolValue', 'intValue', 'doubleValue'].filter(
    (name) => value[name] !== undefined && value[name] !== null,
  )
  return { [key]: key === 'intValue' ? value.intValue.toString() : value[key] }
}
const toAttributes = (attributes) => (attributes ?? []).map(({ key, value }) => ({ key, value: toValue(value) }))

const toSpan = (span) => ({
  traceId: hex(span.traceId),
  spanId: hex(span.spanId),
  ...(span.parentSpanId?.length ? { parentSpanId: hex(span.parentSpanId) } : {}),
  name: span.name,
  kind: number(span.kind, SPAN_KINDS),
  startTimeUnixNano: span.startTimeUnixNano.toString(),
  endTimeUnixNano: span.endTimeUnixNano.toString(),
  attributes: toAttributes(span.attributes),
  events: (span.events ?? []).map((event) => ({
    timeUnixNano: event.timeUnixNano.toString(),
    name: event.name,
    attributes: toAttributes(event.attributes),
  })),
  status: { code: number(span.status?.code, STATUS_CODES) },
})

const received = []
let resolveAll
const all = new Promise((resolve) => (resolveAll = resolve))
/** @type {string | null} */
let wanted = null
const receiver = new MockOtlpServer({
  services: ['grpc'],
  grpcHostname: '127.0.0.1',
  grpcPort: 0,
  logLevel: 'fatal',
  onTrace(trace) {
    for (const { resource, scopeSpans } of trace.resourceSpans) {
      for (const { scope, spans } of scopeSpans) {
        received.push(...spans.map((span) => ({ resource, scope, span: toSpan(span) })))
      }
    }
    check()
  },
})
function check() {
  if (wanted && received.filter(({ span }) => span.traceId === wanted).length >= NUM_SPANS) resolveAll()
}

await receiver.start()
const folder = mkdtempSync(join(tmpdir(), 'miniserve-sample-'))
const server = spawn(
  process.execPath,
  [join(root, 'dist', 'main.js'), '--port', '0', '--otlp-traces-endpoint', receiver.grpcUrl],
  {
    cwd: folder,
    // What this shell sets for other servers would change the sample.
    env: { PATH: process.env['PATH'], HOME: folder, MINISERVE_DATA_DIR: folder },
    stdio: ['ignore', 'ignore', 'pipe'],
  },
)
try {
  const url = await new Promise((resolve, reject) => {
    let text = ''
    server.stderr.on('data', (chunk) => {
      text += chunk
      const ready = /ready on (http:\S+) /.exec(text)
      if (ready) resolve(ready[1])
    })
    server.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${text}`)))
  })
  const ask = () =>
    fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(REQUEST),
    })
  // The first answer builds the bundled index and warms the models; the second is the one to show.
  const warm = await ask()
  const warmText = await warm.text()
  if (!warm.ok) throw new Error(`the warm-up request failed: ${warmText}`)
  const response = await ask()
  const text = await response.text()
  wanted = response.headers.get('x-trace-id')
  check()
  await all
  const found = received.filter(({ span }) => span.traceId === wanted)
  const { resource, scope } = found[0]
  const head = execFileSync('git', ['rev-parse', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()
  const version = resource.attributes.find(({ key }) => key === 'service.version')?.value.stringValue
  if (!version || !head.startsWith(version)) {
    throw new Error(`dist/ was built from ${version}, HEAD is ${head}: npm run build comes first`)
  }
  const otlp = {
    resourceSpans: [
      {
        resource: { attributes: toAttributes(resource.attributes) },
        scopeSpans: [
          {
            scope: { name: scope.name, version: scope.version || undefined },
            spans: found
              .map(({ span }) => span)
              .sort((a, b) => Number(BigInt(a.startTimeUnixNano) - BigInt(b.startTimeUnixNano))),
          },
        ],
      },
    ],
  }
  const write = (name, value) => writeFileSync(join(here, name), `${JSON.stringify(value, null, 2)}\n`)
  write('sample-trace.otlp.json', otlp)
  write('sample-trace.json', writeTraces(parseTraces(otlp), 'grafana'))
  process.stdout.write(`${found.length} spans of ${wanted}\n${text}`)
} finally {
  server.kill('SIGTERM')
  if (server.exitCode === null) await once(server, 'exit')
  await receiver.close()
  rmSync(folder, { recursive: true, force: true })
}
