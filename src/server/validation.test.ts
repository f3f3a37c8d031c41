/** What is said of every field of every body where its value does not fit: in this server's words, and without the caller's. */
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { ApiError } from './errors.ts'
import { ROUTES } from './routes.ts'
import type { Route } from './routes.ts'
import { parseBody } from './validation.ts'

/** In every text and key of a wrong value. */
const CANARY = 'canary-7Q'
const WRONG: readonly unknown[] = [
  true,
  CANARY,
  '',
  '..',
  1.5,
  -2,
  1e308,
  {},
  { [CANARY]: CANARY },
  { type: CANARY },
  [],
  [[]],
  [null],
  [CANARY, 1],
  [{ [CANARY]: 1 }],
]

interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>
  readonly anyOf?: readonly JsonSchema[]
  readonly oneOf?: readonly JsonSchema[]
  readonly allOf?: readonly JsonSchema[]
}

/** The paths of all fields that the schema names, those of objects in objects too. */
function fieldsOf(schema: JsonSchema): string[][] {
  const forms = [schema.anyOf, schema.oneOf, schema.allOf].flatMap((list) => list ?? [])
  const own = Object.entries(schema.properties ?? {}).flatMap(([name, field]) => [
    [name],
    ...fieldsOf(field).map((path) => [name, ...path]),
  ])
  const all = [...own, ...forms.flatMap(fieldsOf)]
  return [...new Map(all.map((path) => [path.join('.'), path])).values()]
}

const bodyWith = (path: readonly string[], value: unknown): unknown =>
  path.reduceRight<unknown>((inner, name) => ({ [name]: inner }), value)

/** The message of the 400, null where the body is taken. */
function refusal(type: z.ZodType, body: unknown): string | null {
  try {
    parseBody(type, body)
    return null
  } catch (error) {
    if (error instanceof ApiError && error.status === 400) return error.message
    throw error
  }
}

describe('a field that does not fit', () => {
  const bodies = Object.entries(ROUTES).flatMap(([name, { body, line }]: [string, Partial<Route>]) => [
    ...(body ? [[name, body] as const] : []),
    ...(line ? [[`${name}, a line`, line] as const] : []),
  ])
  it.each(bodies)('%s: is named in words of ours alone', (_name, body) => {
    const schema = z.toJSONSchema(body, { io: 'input', unrepresentable: 'any' }) as JsonSchema
    for (const path of fieldsOf(schema)) {
      for (const value of WRONG) {
        const message = refusal(body, bodyWith(path, value))
        if (message === null) continue
        const where = `${path.join('.')} = ${JSON.stringify(value)}: ${message}`
        expect(message, where).toMatch(/^[\w.]+(?: \(one of its values\))?: (?:expected|not supported) /)
        expect(message, where).not.toContain(CANARY)
        // The library's own sentences begin with a capital: "Invalid input", "Too small", "Unrecognized key".
        expect(message, where).not.toMatch(/expected [A-Z]|undefined|\[object/)
      }
    }
  })

  it('says which keys there are where there is another, and how long a text is where its length is at fault', () => {
    const query = ROUTES.queryIndex.body
    expect(refusal(query, { query: 'x', weights: { [CANARY]: 1 } })).toBe(
      'weights: expected no keys other than vector, text, rerank, document, topic, found another key',
    )
    expect(refusal(query, { query: '' })).toBe('query: expected at least 1 characters, found a string of 0')
  })

  const MESSAGE = { role: 'user', content: 'x' }
  const IMAGE = {
    role: 'user',
    content: [
      { type: 'input_text', text: 'x' },
      { type: 'input_image', image_url: 'y' },
    ],
  }
  const SCREEN = { type: 'function_call_output', call_id: 'c', output: [{ type: 'input_image', image_url: 'y' }] }
  it.each([
    [
      'createChatCompletion',
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      /images, audio or files/,
    ],
    [
      'createResponse',
      { input: [{ ...IMAGE, type: 'message' }] },
      /^input\.0\.content\.1\.type: .*images, audio or files/,
    ],
    ['createResponse', { input: [SCREEN] }, /^input\.0\.output\.0\.type: .*images, audio or files/],
    ['createResponse', { input: 'x', tools: [{ type: 'web_search' }] }, /^tools\.0\.type: .*only type of tool/],
    [
      'createChatCompletion',
      { messages: [MESSAGE], tools: [{ type: 'custom' }] },
      /^tools\.0\.type: .*only type of tool/,
    ],
  ] as const)('%s: says what the server does not do', (route, body, message) => {
    expect(refusal(ROUTES[route].body, body)).toMatch(message)
  })
})
