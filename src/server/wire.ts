/**
 * OpenAI's wire: zod schemas of the generation requests. Validation, the TypeScript types and /openapi.json come from here;
 * snake_case stays in this file. Unknown fields are ignored; a known one that cannot be honoured is a 400 naming it.
 */
import { z } from 'zod'
import { invalidRequest } from './errors.ts'

const tokenId = z.int().min(0)
export const nullable = <T extends z.ZodType>(type: T) => type.nullish().transform((value) => value ?? undefined)

/** A field of OpenAI's API (or vLLM's) that this server knows and does not offer. */
export const unsupported = (allowed: readonly unknown[] = []) =>
  z
    .unknown()
    .optional()
    .refine((value) => value === undefined || value === null || allowed.some((item) => isSame(item, value)), {
      error: 'not supported by this server',
    })

/** Equal as a scalar or as a flat list: the caller's value may be of any size and depth. */
const isSame = (a: unknown, b: unknown): boolean =>
  Array.isArray(a) && Array.isArray(b) ? a.length === b.length && a.every((item, i) => item === b[i]) : a === b

const stop = nullable(
  z.union([z.string().min(1), z.array(z.string().min(1)).max(16)], {
    error: 'a string or an array of up to 16 strings',
  }),
)

const logitBias = nullable(
  z
    .record(z.string().regex(/^\d+$/, 'token ids as keys'), z.number().min(-100).max(100))
    .refine((bias) => Object.keys(bias).length <= 1024, { error: 'at most 1024 tokens' }),
)

const jsonSchemaFormat = z.object({
  type: z.literal('json_schema'),
  json_schema: z.object({
    name: z.string().optional(),
    description: z.string().optional(),
    strict: z.boolean().nullish(),
    schema: z.unknown().refine((schema) => schema !== undefined, { error: 'a JSON schema' }),
  }),
})

const responseFormat = nullable(
  z.discriminatedUnion(
    'type',
    [z.object({ type: z.literal('text') }), z.object({ type: z.literal('json_object') }), jsonSchemaFormat],
    {
      error: 'an object whose type is text, json_object or json_schema',
    },
  ),
)

const structuredOutputs = nullable(
  z
    .object({
      json: z.union([z.record(z.string(), z.unknown()), z.string()]).optional(),
      regex: z.string().min(1).optional(),
      choice: z.array(z.string().min(1)).min(1).max(1024).optional(),
      grammar: z.string().min(1).optional(),
    })
    .refine((value) => Object.values(value).filter((item) => item !== undefined).length === 1, {
      error: 'exactly one of json, regex, choice, grammar',
    }),
)

/** `rag: true`, or what to retrieve. */
export const rag = nullable(
  z.union(
    [
      z.boolean(),
      z.object({
        index: z.string().min(1).optional(),
        top_k: z.int().min(1).max(1000).optional(),
        top_n: z.int().min(1).max(100).optional(),
        min_score: z.number().optional(),
        // Values and operators are checked where they are used (rag/filter.ts).
        filter: z.record(z.string(), z.unknown()).optional(),
      }),
    ],
    { error: 'true or an object {index, top_k, top_n, min_score, filter}' },
  ),
)

/** Fields that completions and chat share. */
const generationFields = {
  model: nullable(z.string()),
  temperature: nullable(z.number().min(0).max(2)),
  top_p: nullable(z.number().gt(0).max(1)),
  top_k: nullable(z.int().min(-1).max(1_000_000)),
  min_p: nullable(z.number().min(0).max(1)),
  n: nullable(z.int().min(1).max(128)),
  // Beyond 2^53 JSON numbers are rounded: two different seeds would silently be one.
  seed: nullable(z.int()),
  stop,
  stop_token_ids: nullable(z.array(tokenId).max(128)),
  include_stop_str_in_output: nullable(z.boolean()),
  min_tokens: nullable(z.int().min(0)),
  ignore_eos: nullable(z.boolean()),
  presence_penalty: nullable(z.number().min(-2).max(2)),
  frequency_penalty: nullable(z.number().min(-2).max(2)),
  repetition_penalty: nullable(z.number().gt(0).max(10)),
  logit_bias: logitBias,
  response_format: responseFormat,
  structured_outputs: structuredOutputs,
  cache_salt: nullable(z.string().min(1).max(256)),
  priority: nullable(z.int().min(-1000).max(1000)),
  stream: nullable(z.boolean()),
  stream_options: nullable(z.object({ include_usage: nullable(z.boolean()) })),
  return_token_ids: nullable(z.boolean()),
  user: nullable(z.string()),
  rag,
}

/** Prompts of one request. */
const MAX_PROMPTS = 256

export const completionRequest = z.object({
  ...generationFields,
  prompt: z.union(
    [
      z.string(),
      z.array(tokenId).min(1),
      z.array(z.string()).min(1).max(MAX_PROMPTS),
      z.array(z.array(tokenId).min(1)).min(1).max(MAX_PROMPTS),
    ],
    {
      error: `a string, an array of 1 to ${MAX_PROMPTS} strings, an array of token ids or an array of 1 to ${MAX_PROMPTS} arrays of token ids`,
    },
  ),
  max_tokens: nullable(z.int().min(0)),
  echo: nullable(z.boolean()),
  logprobs: nullable(z.int().min(0).max(20)),
  suffix: unsupported(['']),
  best_of: nullable(z.int().min(1).max(128)),
})

const textPart = z.object({ type: z.literal('text'), text: z.string() })

const toolCall = z.object({
  id: z.string().max(256),
  type: z.literal('function').optional(),
  function: z.object({ name: z.string().min(1).max(256), arguments: z.string() }),
})

const tool = z.looseObject({
  type: z.literal('function'),
  function: z.looseObject({ name: z.string().min(1).max(256) }),
})

const toolChoice = nullable(
  z.union(
    [
      z.enum(['none', 'auto', 'required']),
      z.object({ type: z.literal('function'), function: z.object({ name: z.string().min(1).max(256) }) }),
    ],
    { error: "'none', 'auto', 'required' or an object {type: 'function', function: {name}}" },
  ),
)

const chatMessage = z.object({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z
    .union([z.string(), z.array(textPart)], { error: 'a string or an array of text parts' })
    .nullish()
    .transform((content) => (Array.isArray(content) ? content.map((part) => part.text).join('') : (content ?? ''))),
  name: nullable(z.string()),
  tool_calls: nullable(z.array(toolCall).max(128)),
  tool_call_id: nullable(z.string().max(256)),
})

export const chatRequest = z.object({
  ...generationFields,
  messages: z.array(chatMessage).min(1).max(4096),
  max_completion_tokens: nullable(z.int().min(1)),
  max_tokens: nullable(z.int().min(1)),
  logprobs: nullable(z.boolean()),
  top_logprobs: nullable(z.int().min(0).max(20)),
  continue_final_message: nullable(z.boolean()),
  add_generation_prompt: unsupported([true]),
  tools: nullable(z.array(tool).max(128)),
  tool_choice: toolChoice,
  parallel_tool_calls: nullable(z.boolean()),
  functions: unsupported([[]]),
  function_call: unsupported(['none', 'auto']),
  audio: unsupported(),
  modalities: unsupported([['text']]),
})

export const tokenizeRequest = z
  .object({
    model: nullable(z.string()),
    prompt: z.string().optional(),
    messages: z.array(chatMessage).min(1).optional(),
    tools: nullable(z.array(tool).max(128)),
    add_special_tokens: nullable(z.boolean()),
  })
  .refine((body) => (body.prompt === undefined) !== (body.messages === undefined), {
    path: ['prompt'],
    error: 'either prompt or messages',
  })

export const detokenizeRequest = z.object({ model: nullable(z.string()), tokens: z.array(tokenId).max(1_000_000) })

/** A parsed body, whose absent fields may also be left out: other APIs make such bodies. */
type Parsed<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: T[K] | undefined
}
export type CompletionRequest = Parsed<z.output<typeof completionRequest>>
export type ChatMessageFields = Parsed<z.output<typeof chatMessage>>
export type ChatRequest = Omit<Parsed<z.output<typeof chatRequest>>, 'messages'> & {
  readonly messages: readonly ChatMessageFields[]
}
export type RagParams = Exclude<CompletionRequest['rag'], undefined>

/** The type of a JSON value in the words of an error message. Numbers and booleans are named; strings never are. */
function describeFound(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'number') return `the number ${value}`
  if (typeof value === 'boolean') return String(value)
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

/** @param type of the field at fault, undefined where the schema names none. */
function describeExpected(issue: z.core.$ZodIssue, type: z.core.$ZodType | undefined): string {
  const integer = integerOf(type)
  switch (issue.code) {
    case 'invalid_type': {
      if (issue.expected === 'int' || (issue.expected === 'number' && integer)) return 'a whole number'
      const expected = issue.expected === 'record' ? 'object' : issue.expected
      return `${/^[aeio]/.test(expected) ? 'an' : 'a'} ${expected}`
    }
    case 'too_small':
      if (integer && issue.minimum === Number.MIN_SAFE_INTEGER) return describeRange(integer)
      return `${issue.origin === 'array' ? 'at least' : issue.inclusive ? 'at least' : 'more than'} ${String(issue.minimum)}${sizeUnit(issue.origin)}`
    case 'too_big':
      if (integer && issue.maximum === Number.MAX_SAFE_INTEGER) return describeRange(integer)
      return `${issue.inclusive ? 'at most' : 'less than'} ${String(issue.maximum)}${sizeUnit(issue.origin)}`
    case 'invalid_value':
      return `one of ${issue.values.map(String).join(', ')}`
    case 'invalid_key':
      return issue.issues[0]?.message ?? 'other keys'
    default:
      return issue.message
  }
}

/** The integer that a field takes, where it takes one. */
function integerOf(type: z.core.$ZodType | undefined): z.ZodNumber | undefined {
  if (type instanceof z.ZodOptional || type instanceof z.ZodNullable) return integerOf(type.unwrap())
  if (type instanceof z.ZodPipe) return integerOf(type.in)
  return type instanceof z.ZodNumber && type.isInt ? type : undefined
}

const describeRange = ({ minValue, maxValue }: z.ZodNumber): string => `a whole number from ${minValue} to ${maxValue}`

const sizeUnit = (origin: string): string => (origin === 'array' ? ' items' : origin === 'string' ? ' characters' : '')

const at = (body: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (value, key) => (typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined),
    body,
  )

/** The schema of a field or an item, undefined where the schema names none: past it a path is made of the caller's own keys. */
function schemaAt(type: z.core.$ZodType, key: PropertyKey): z.core.$ZodType | undefined {
  if (type instanceof z.ZodObject) return Object.hasOwn(type.shape, key) ? type.shape[String(key)] : undefined
  if (type instanceof z.ZodArray) return type.element
  if (type instanceof z.ZodOptional || type instanceof z.ZodNullable) return schemaAt(type.unwrap(), key)
  if (type instanceof z.ZodPipe) return schemaAt(type.in, key)
  if (type instanceof z.ZodUnion) {
    for (const option of type.options) {
      const found = schemaAt(option, key)
      if (found) return found
    }
  }
  return undefined
}

/** The part of a path that the schema names, and the schema at its end where that is all of it. */
function knownPath(
  type: z.core.$ZodType,
  path: readonly PropertyKey[],
): { readonly path: readonly PropertyKey[]; readonly type: z.core.$ZodType | undefined } {
  let current: z.core.$ZodType | undefined = type
  const end = path.findIndex((key) => {
    current = current && schemaAt(current, key)
    return current === undefined
  })
  return { path: end === -1 ? path : path.slice(0, end), type: current }
}

/** What is wrong inside a value that one form of a union alone could be: naming all forms would not name the field. */
function fieldIssue(issue: z.core.$ZodIssue, body: unknown): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue
  const found = at(body, issue.path)
  if (typeof found !== 'object' || found === null) return issue
  // Forms of another type fail at once; the others could be what was meant.
  const forms = issue.errors.filter((errors) =>
    errors.some(({ path, code }) => path.length > 0 || code !== 'invalid_type'),
  )
  const inner = forms.flat().find(({ path }) => path.length > 0)
  if (inner === undefined || (Array.isArray(found) && forms.length > 1)) return issue
  return fieldIssue({ ...inner, path: [...issue.path, ...inner.path] }, body)
}

/**
 * A request body held against its schema.
 * @throws ApiError 400 naming the field, what was expected and the type that was found.
 */
export function parseBody<T extends z.ZodType>(type: T, body: unknown): z.output<T> {
  const result = type.safeParse(body)
  if (result.success) return result.data
  const [first] = result.error.issues
  if (!first) throw invalidRequest('the body does not fit the schema')
  const issue = fieldIssue(first, body)
  if (issue.path.length === 0 && issue.code === 'invalid_type') {
    throw invalidRequest(`body: expected a JSON object, found ${describeFound(body)}`)
  }
  const { path, type: fieldType } = knownPath(type, issue.path)
  const param = path.map(String).join('.')
  if (issue.code === 'custom' && issue.message === 'not supported by this server') {
    throw invalidRequest(`${param}: ${issue.message}`, param)
  }
  const where =
    path.length === issue.path.length || issue.code === 'invalid_key' ? param : `${param} (one of its values)`
  const found = issue.code === 'invalid_key' ? 'another key' : describeFound(at(body, issue.path))
  throw invalidRequest(`${where}: expected ${describeExpected(issue, fieldType)}, found ${found}`, param)
}
