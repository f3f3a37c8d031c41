/**
 * Every field of every route, filled with the worst that its place in the body allows: wide, deep, long, repeated. Made from
 * /openapi.json, so that a new route or field is tried without anybody thinking of it. The full level does it at the size limit.
 */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openApiDocument } from '../../src/server/openapi.ts'
import { type RouteName, ROUTES } from '../../src/server/routes.ts'
import { MAX_HEALTH_MS, worstHealthMs } from './health-watch.ts'
import { ServerProcess } from './server-process.ts'

const isDefault = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') === 'default'
const NUM_BYTES = isDefault ? 8 * 2 ** 10 : 16 * 2 ** 20 - 1024
/** One field in so many of each kind: all kinds together come by all of them. */
const SHARE = isDefault ? 9 : 4
const MAX_RSS_MIB = 1500

type Schema = { readonly properties?: Readonly<Record<string, unknown>>; readonly $ref?: string }
const document = openApiDocument('test', Object.keys(ROUTES) as RouteName[]) as {
  readonly paths: Record<string, Record<string, { requestBody?: { content: Record<string, { schema: Schema }> } }>>
  readonly components: { readonly schemas: Record<string, Schema> }
}

/** What makes a request whole besides the field under attack. */
const BASES: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  '/v1/completions': { prompt: 'x', max_tokens: 1 },
  '/v1/chat/completions': { messages: [{ role: 'user', content: 'x' }], max_tokens: 1 },
  '/v1/responses': { input: 'x', max_output_tokens: 1, store: false },
  '/v1/messages': { messages: [{ role: 'user', content: 'x' }], max_tokens: 1 },
  '/v1/messages/count_tokens': { messages: [{ role: 'user', content: 'x' }] },
  '/tokenize': { prompt: 'x' },
  '/detokenize': { tokens: [1] },
  '/v1/embeddings': { input: 'x' },
  '/v1/rerank': { query: 'x', documents: ['y'] },
  '/v1/score': { text_1: 'x', text_2: 'y' },
  '/v1/rag/documents': { index: 'attacked', documents: [{ id: 'a', text: 'x' }] },
  '/v1/rag/query': { query: 'x' },
  '/mcp': { jsonrpc: '2.0', id: 1, method: 'ping' },
}

const fill = (unit: string, numBytes: number, between = ','): string =>
  Array.from({ length: Math.max(1, Math.floor(numBytes / (unit.length + between.length))) }, () => unit).join(between)

/** JSON of about this many bytes. */
const WORST: Readonly<Record<string, (numBytes: number) => string>> = {
  'a wide list of objects': (numBytes) => `[${fill('{}', numBytes)}]`,
  'a wide list of numbers': (numBytes) => `[${fill('-1', numBytes)}]`,
  'lists in a list': (numBytes) => `[${fill('[[0]]', numBytes)}]`,
  'a deep nest': (numBytes) => {
    const depth = Math.min(100, numBytes / 2)
    return `${'['.repeat(depth)}"${'x'.repeat(numBytes - 2 * depth)}"${']'.repeat(depth)}`
  },
  'a nest too deep': (numBytes) => `${'{"a":'.repeat(numBytes / 12)}0${'}'.repeat(numBytes / 12)}`,
  'a long string': (numBytes) => `"${'\\"'.repeat(numBytes / 2)}"`,
  'a long number': (numBytes) => '9'.repeat(numBytes),
  'unlike keys': (numBytes) => `{${Array.from({ length: numBytes / 12 }, (_, i) => `"k${i}":${i}`).join()}}`,
  'one key again and again': (numBytes) => `{${fill('"type":"text"', numBytes)}}`,
}

let server: ServerProcess
beforeAll(async () => {
  server = await ServerProcess.start(['--max-queued-requests', '512'])
})
afterAll(async () => {
  await server?.stop()
})

function fieldsOf(path: string): readonly string[] {
  const $ref = document.paths[path]?.['post']?.requestBody?.content['application/json']?.schema.$ref ?? ''
  const schema = document.components.schemas[$ref.slice($ref.lastIndexOf('/') + 1)]
  return Object.keys(schema?.properties ?? {})
}

/** Sends all, a few at a time. */
async function sendAll(path: string, bodies: readonly string[]): Promise<number[]> {
  const statuses: number[] = []
  const queue = [...bodies]
  const work = async () => {
    for (let body = queue.pop(); body !== undefined; body = queue.pop()) {
      const response = await server.post(path, body)
      const text = await response.text()
      expect(response.status < 500 || response.status === 501, `${response.status} ${text.slice(0, 300)}`).toBe(true)
      statuses.push(response.status)
    }
  }
  await Promise.all([work(), work()])
  return statuses
}

const paths = Object.keys(document.paths).filter((path) => fieldsOf(path).length > 0 || path === '/mcp')

it('knows a whole request of every route', () => {
  expect(Object.keys(BASES).sort()).toEqual(paths.sort())
})

describe.each(paths)('%s', (path) => {
  it.each(Object.keys(WORST))('%s in any field is answered or refused, and others are served', async (kind) => {
    const value = (WORST[kind] ?? String)(NUM_BYTES)
    const fields = fieldsOf(path).filter((_, i) => (i + Object.keys(WORST).indexOf(kind)) % SHARE === 0)
    const bodies = ['a field of no schema', ...fields].map((field) => {
      const { [field]: _, ...others } = BASES[path] ?? {}
      return `{${JSON.stringify(field)}:${value}${Object.keys(others).length > 0 ? ',' : ''}${JSON.stringify(others).slice(1)}`
    })
    const sent = sendAll(path, bodies)
    expect(await worstHealthMs(server, sent)).toBeLessThan(MAX_HEALTH_MS)
    expect(await sent).toHaveLength(bodies.length)
  })
})

it('nothing is left of it, and memory stayed bounded', async () => {
  const text = await (await server.get('/metrics')).text()
  expect(text).toMatch(/^miniserve_num_requests_running 0$/m)
  expect(text).toMatch(/^miniserve_num_requests_waiting 0$/m)
  const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))?.[1]
  expect(Number(peak) / 1024).toBeLessThan(MAX_RSS_MIB)
})
