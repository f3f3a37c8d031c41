/**
 * Every answer that an end-to-end test gets by fetch, whoever calls it, is held against what /openapi.json says of its route: status,
 * media type, body, and each event of a stream. An answer that differs breaks off with an error that says where.
 */
import { z } from 'zod'
import { openApiDocument } from '../../src/server/openapi.ts'
import { type Route, type RouteName, patternOf, ROUTES } from '../../src/server/routes.ts'

interface Content {
  readonly schema: { readonly $ref?: string }
  readonly 'x-event-schema'?: { readonly $ref: string }
}
interface Document {
  readonly paths: Record<
    string,
    Record<string, { readonly responses: Record<string, { readonly content?: Record<string, Content> }> }>
  >
  readonly components: { readonly schemas: Record<string, z.core.JSONSchema.BaseSchema> }
}

/** More of a body than this is not read again. */
const MAX_LENGTH = 8 * 2 ** 20

const document = openApiDocument('test', Object.keys(ROUTES) as RouteName[]) as Document
const routes = Object.values(ROUTES).map((route: Route) => ({
  route,
  pattern: new RegExp(
    `^${patternOf(route)
      .replace(/[.]/g, '\\.')
      .replace(/\{\w+\}/g, '.+')}$`,
  ),
}))
const compiled = new Map<string, z.ZodType>()

function schemaOf({ $ref }: { readonly $ref?: string }): z.ZodType {
  if ($ref === undefined) return z.unknown()
  const name = $ref.slice($ref.lastIndexOf('/') + 1)
  const schema = document.components.schemas[name]
  if (!schema) throw new Error(`openapi.json: no component ${name}`)
  const known = compiled.get(name) ?? z.fromJSONSchema(schema)
  compiled.set(name, known)
  return known
}

function check(schema: z.ZodType, value: unknown, what: string): void {
  const result = schema.safeParse(value)
  if (result.success) return
  throw new Error(`${what} is not what openapi.json says: ${z.prettifyError(result.error)}\n${JSON.stringify(value)}`)
}

/** @throws Error when the whole answer is not as described. */
function checkAnswer(route: Route, status: number, type: string, text: string): void {
  const what = `${route.method} ${patternOf(route)}: the answer with status ${status}`
  const { responses } = document.paths[patternOf(route)]?.[route.method.toLowerCase()] ?? { responses: {} }
  const response = responses[status] ?? responses[status < 400 ? 'none' : 'default']
  const content = response?.content ?? {}
  if (response && !response.content && text === '') return
  const described = content[type] ?? (status === 200 ? content['*/*'] : undefined)
  // Pages answer errors as pages, and forms lead to other pages.
  if (described === undefined && route.tag === 'Pages') return
  if (described === undefined) throw new Error(`${what} has the type ${type}, of which openapi.json does not know`)
  if (type === 'application/json') return check(schemaOf(described.schema), JSON.parse(text), what)
  const event = described['x-event-schema']
  if (event === undefined) return
  for (const frame of text.split('\n\n')) {
    const data = /^data: (.*)$/m.exec(frame)?.[1]
    if (data === undefined || data === '[DONE]') continue
    const value: unknown = JSON.parse(data)
    if (typeof value === 'object' && value !== null && 'error' in value && !('type' in value)) continue
    check(schemaOf(event), value, `${what}: an event`)
  }
}

const plainFetch = globalThis.fetch

/** fetch, which checks what it gets once it has been read to its end. */
globalThis.fetch = async function describedFetch(input, init) {
  const response = await plainFetch(input, init)
  const url = new URL(input instanceof Request ? input.url : input)
  const method = (init?.method ?? (input instanceof Request ? input.method : 'GET')).toUpperCase()
  const found = routes.find(({ route, pattern }) => route.method === method && pattern.test(url.pathname))
  // Servers of other kinds are called in these tests, too.
  if (!found || response.body === null || !response.headers.has('x-trace-id')) return response
  const [type = ''] = (response.headers.get('content-type') ?? '').split(';')
  const decoder = new TextDecoder()
  let text = ''
  const body = response.body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        if (text.length < MAX_LENGTH) text += decoder.decode(chunk, { stream: true })
        controller.enqueue(chunk)
      },
      flush() {
        if (text.length < MAX_LENGTH) checkAnswer(found.route, response.status, type.trim(), text)
      },
    }),
  )
  const { status, statusText, headers } = response
  const checked = new Response(body, { status, statusText, headers })
  Object.defineProperty(checked, 'url', { value: response.url })
  return checked
}
