/**
 * Random requests of every route, made from /openapi.json: whatever is sent, the answer has a status and a body that the description
 * knows (described.ts holds every answer against it), none is the server's fault, and the server goes on. A few of each route by default;
 * thousands, of another seed each time, in `test:full`.
 */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createRandom } from '../engine/random.ts'
import { openApiDocument } from '../../src/server/openapi.ts'
import { type RouteName, ROUTES } from '../../src/server/routes.ts'
import { SchemaValues, type Schema } from './schema-values.ts'
import { ServerProcess } from './server-process.ts'

const LEVEL = process.env['MINISERVE_TEST_LEVEL'] ?? 'default'
const NUM_REQUESTS = { default: 12, full: 250, soak: 1000 }[LEVEL] ?? 12
/** A failure is played again with the seed in the test's name. */
const SEED = Number(process.env['MINISERVE_TEST_SEED'] ?? (LEVEL === 'default' ? 1 : Date.now() % 2 ** 31))
const CONCURRENCY = 8

interface Operation {
  readonly operationId: string
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly required?: boolean; readonly schema?: Schema }[] // prettier-ignore
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> }
}

const document = openApiDocument('test', Object.keys(ROUTES) as RouteName[]) as {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> }
}
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
)

/** Fields that make an answer long: kept small, so that many requests can be made. */
const LENGTHS = ['max_tokens', 'max_completion_tokens', 'max_output_tokens', 'n', 'best_of', 'thinking_token_budget']

/** Ids by the name of the path's parameter, of what is there at first. */
const known = new Map<string, string>()

let server: ServerProcess
beforeAll(async () => {
  server = await ServerProcess.start(['--max-model-len=256', '--max-queued-requests=200'])
  const response = await server.post('/v1/responses', { input: 'x', max_output_tokens: 16 })
  known.set('traceId', response.headers.get('x-trace-id') ?? '')
  known.set('id', ((await response.json()) as { readonly id: string }).id)
  await (await server.post('/v1/rag/documents', { index: 'known', documents: [{ id: 'x', text: 'x' }] })).text()
  known.set('name', 'known')
})
afterAll(async () => {
  await server?.stop()
})

interface Case {
  readonly path: string
  readonly method: string
  readonly headers: Record<string, string>
  readonly body: string | null
}

function makeCase({ path, method, operation }: (typeof operations)[number], seed: number): Case {
  const draw = createRandom(seed).next
  const values = new SchemaValues(document.components.schemas, draw, shareWrong(draw))
  const { parameters = [], requestBody } = operation
  const query = new URLSearchParams()
  let filled = path
  for (const { name, in: place, required, schema = true } of parameters) {
    if (place === 'query' && (required === true || draw() < 0.5)) query.set(name, String(values.value(schema)))
    const drawn = draw() < 0.4 ? (known.get(name) ?? 'x') : String(values.value({ type: 'string', minLength: 1 }))
    const id = encodeURIComponent(Buffer.from(drawn).toString())
    if (place === 'path') filled = filled.replace(`{${name}}`, /^\.{1,2}$/.test(id) ? 'x' : id)
  }
  const url = `${filled}${query.size > 0 ? `?${query}` : ''}`
  if (requestBody === undefined) return { path: url, method, headers: {}, body: null }
  const [type = '', { schema } = { schema: true }] = values.pick(Object.entries(requestBody.content))
  const headers = { 'content-type': type, accept: 'application/json, text/event-stream' }
  if (!/json/.test(type)) return { path: url, method, headers, body: String(values.value({ type: 'string' })) }
  const value = values.value(schema)
  return { path: url, method, headers, body: JSON.stringify(shortened(value, operation.operationId)) }
}

/** Half of the requests are meant to fit. */
const shareWrong = (draw: () => number): number => (draw() < 0.5 ? 0 : 0.08)

function shortened(value: unknown, operationId: string): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const bounded = Object.entries(value).map(([name, given]) => [name, LENGTHS.includes(name) && typeof given === 'number' ? Math.min(given, 3) : given] as const) // prettier-ignore
  const isGeneration = /^create(?:Completion|ChatCompletion|Response|Message)$/.test(operationId)
  const length = operationId === 'createResponse' ? { max_output_tokens: 16 } : { max_tokens: 3 }
  return { ...(isGeneration ? length : {}), ...Object.fromEntries(bounded) }
}

async function send({ path, method, headers, body }: Case): Promise<number> {
  const response = await fetch(server.url + path, { method, headers, ...(body === null ? {} : { body }) })
  await response.text()
  return response.status
}

it.each(operations)(`$method $path: no answer that the description does not know, seed ${SEED}`, async (one) => {
  let next = 0
  const statuses = new Map<number, number>()
  const work = async (): Promise<void> => {
    for (let i = next++; i < NUM_REQUESTS; i = next++) {
      const made = makeCase(one, SEED * 1009 + i * 31 + operations.indexOf(one))
      const told = `request ${i}: ${made.method} ${made.path} ${made.body ?? ''}`.slice(0, 2000)
      try {
        const status = await send(made)
        expect(status < 500 || status === 501, `${status} for ${told}`).toBe(true)
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
      } catch (error) {
        throw new Error(told, { cause: error })
      }
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, work))
  expect((await server.get('/health')).status).toBe(200)
})

it('and nothing of it is left', async () => {
  const text = await (await server.get('/metrics')).text()
  expect(text).toMatch(/^miniserve_num_requests_running 0$/m)
  expect(text).toMatch(/^miniserve_num_requests_waiting 0$/m)
  expect(text).not.toMatch(/^miniserve_trace_breaches_total\{/m)
})
