/**
 * Zod schemas of OpenAI's generation requests, for validation, TypeScript types and /openapi.json. Unknown fields are ignored; a known field
 * that cannot be honoured is a 400 that names it.
 */
import { z } from 'zod'
import { retrievalFields } from '../rag/retrieval-request.ts'
import { list, nullable, nullableFields, record, tokenIds } from './validation.ts'
import { constraintFields, jsonSchema, unsupported, unsupportedFields } from './wire-elsewhere.ts'

/** Every token of the answer is compared with every stop string. */
const MAX_STOP_LENGTH = 4096
const stopString = z.string().min(1).max(MAX_STOP_LENGTH)

const stop = nullable(
  z.union([stopString, list(stopString, { max: 16 })], {
    error: `a string or an array of up to 16 strings, each of 1 to ${MAX_STOP_LENGTH} characters`,
  }),
)

const logitBias = nullable(
  record(z.string().regex(/^\d{1,9}$/, 'token ids as keys'), z.number().min(-100).max(100), { max: 1024 }),
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
    [
      z.object({ type: z.literal('text') }),
      z.object({ type: z.literal('json_object'), schema: z.record(z.string(), z.unknown()).nullish() }),
      jsonSchemaFormat,
    ],
    {
      error: 'an object whose type is text, json_object or json_schema',
    },
  ),
)

const structuredOutputs = nullable(
  z
    .object({
      json: jsonSchema.optional(),
      regex: z.string().min(1).optional(),
      choice: list(z.string().min(1), { min: 1, max: 1024 }).optional(),
      grammar: z.string().min(1).optional(),
      json_object: z.literal(true).optional(),
    })
    .refine((value) => Object.values(value).filter((item) => item !== undefined).length === 1, {
      error: 'exactly one of json, json_object, regex, choice, grammar',
    })
    .meta({ minProperties: 1, maxProperties: 1 }),
)

/** `true`, or an object that says what to retrieve. */
export const rag = nullable(
  z.union([z.boolean(), z.object(nullableFields(retrievalFields))], {
    error: `true or an object {${Object.keys(retrievalFields).join(', ')}}`,
  }),
)

const repetitionPenalty = z.number().gt(0).max(10)

/** Number of new tokens. As in llama.cpp, -1 means as many as fit into the context. */
const newTokens = z.int().min(-1)
const notZero = (value: number): boolean => value !== 0
const atLeastOne = { error: 'a whole number of at least 1, or -1 for as many as fit' }

/** Variables for the chat template other than the conversation. */
export const chatTemplateArguments = nullable(
  record(
    z
      .string()
      .regex(
        /^(?!(?:messages|tools|documents|add_generation_prompt|bos_token|eos_token)$)/,
        'names that are not the template’s own',
      ),
    z.unknown(),
    { max: 64 },
  ),
)

/** Sampling fields other than temperature and top_p. OpenAI's newer APIs lack them, but clients of other servers send them there too. */
export const samplingFields = {
  top_k: nullable(z.int().min(-1).max(1_000_000)),
  min_p: nullable(z.number().min(0).max(1)),
  // JSON numbers beyond 2^53 are rounded, so two different seeds could become the same.
  seed: nullable(z.int()),
  stop,
  stop_token_ids: nullable(tokenIds({ max: 128 })),
  include_stop_str_in_output: nullable(z.boolean()),
  min_tokens: nullable(z.int().min(0)),
  ignore_eos: nullable(z.boolean()),
  presence_penalty: nullable(z.number().min(-2).max(2)),
  frequency_penalty: nullable(z.number().min(-2).max(2)),
  repetition_penalty: nullable(repetitionPenalty),
  /** llama.cpp's name for the same. */
  repeat_penalty: nullable(repetitionPenalty),
  logit_bias: logitBias,
  structured_outputs: structuredOutputs,
  cache_salt: nullable(z.string().min(1).max(256)),
  priority: nullable(z.int().min(-1000).max(1000)),
  ...constraintFields,
}

/** The sampling fields of a body. */
export const samplingOf = <T extends object>(body: T): Pick<T, keyof typeof samplingFields & keyof T> =>
  Object.fromEntries(Object.entries(body).filter(([name]) => name in samplingFields)) as never

/** Fields that completions and chat share. */
const generationFields = {
  ...samplingFields,
  model: nullable(z.string()),
  temperature: nullable(z.number().min(0).max(2)),
  top_p: nullable(z.number().min(0).max(1)),
  n: nullable(z.int().min(1).max(128)),
  response_format: responseFormat,
  stream: nullable(z.boolean()),
  stream_options: nullable(
    z.object({ include_usage: nullable(z.boolean()), continuous_usage_stats: nullable(z.boolean()) }),
  ),
  /** llama.cpp's name for max_tokens. */
  n_predict: nullable(newTokens),
  return_token_ids: nullable(z.boolean()),
  return_tokens_as_token_ids: nullable(z.boolean()),
  prompt_logprobs: nullable(z.int().min(0).max(20)),
  truncate_prompt_tokens: nullable(z.int().min(-1).refine(notZero, atLeastOne)),
  user: nullable(z.string()),
  rag,
  ...unsupportedFields,
}

/** A client's own notes on its request. Only the Responses API returns them. */
export const metadata = nullable(record(z.string().max(64), z.string().max(512), { max: 16 }))

/** Maximum number of prompts in a request. */
const MAX_PROMPTS = 256
/** Maximum number of token ids in a prompt: more than any model's context, which is checked later. */
const MAX_PROMPT_IDS = 2 ** 18

export const completionRequest = z.object({
  ...generationFields,
  prompt: z.union(
    [
      z.string(),
      tokenIds({ min: 1, max: MAX_PROMPT_IDS }),
      list(z.string(), { min: 1, max: MAX_PROMPTS }),
      list(tokenIds({ min: 1, max: MAX_PROMPT_IDS }), { min: 1, max: MAX_PROMPTS }),
    ],
    {
      error: `a string, an array of 1 to ${MAX_PROMPTS} strings, an array of token ids or an array of 1 to ${MAX_PROMPTS} arrays of token ids`,
    },
  ),
  max_tokens: nullable(newTokens),
  add_special_tokens: nullable(z.boolean()),
  echo: nullable(z.boolean()),
  logprobs: nullable(z.int().min(0).max(20)),
  suffix: unsupported(['']),
  best_of: nullable(z.int().min(1).max(128)),
  chat_template_kwargs: unsupported(),
  reasoning_effort: unsupported(),
})

/** Maximum number of parts in a message. */
const MAX_PARTS = 1024

const textPart = z.object({ type: z.literal('text'), text: z.string() })
/** An assistant's refusal in an earlier turn. */
const refusalPart = z.object({ type: z.literal('refusal'), refusal: z.string() })
const part = z.discriminatedUnion('type', [textPart, refusalPart], {
  error: 'a part whose type is text or refusal: this server does not support images, audio or files',
})

const toolCall = z.object({
  id: z.string().max(256),
  type: z.literal('function').optional(),
  function: z.object({ name: z.string().min(1).max(256), arguments: z.string() }),
})

/** The type of a tool. */
export const functionType = z.literal('function', {
  error: 'function, the only type of tool that this server supports',
})

const tool = z.looseObject({
  type: functionType,
  function: z.looseObject({
    name: z.string().min(1).max(256),
    description: z.string().nullish(),
    parameters: z.record(z.string(), z.unknown()).nullish(),
  }),
})

const toolChoice = nullable(
  z.union(
    [
      z.enum(['none', 'auto', 'required']),
      z.object({ type: z.literal('function'), function: z.object({ name: z.string().min(1).max(256) }) }),
      z.object({
        type: z.literal('allowed_tools'),
        allowed_tools: z.object({
          mode: z.enum(['auto', 'required']),
          tools: list(
            z.looseObject({ type: z.literal('function'), function: z.object({ name: z.string().max(256) }) }),
            {
              max: 128,
            },
          ),
        }),
      }),
    ],
    {
      error:
        "'none', 'auto', 'required' or an object {type: 'function', function: {name}} or {type: 'allowed_tools', allowed_tools: {mode, tools}}",
    },
  ),
)

/** Parts are joined as lines, as in vLLM and llama.cpp. */
const textOf = (content: string | readonly z.output<typeof part>[]): string =>
  typeof content === 'string'
    ? content
    : content.map((item) => (item.type === 'text' ? item.text : item.refusal)).join('\n')

const chatMessage = z
  .object({
    role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
    content: z
      .union([z.string(), list(part, { max: MAX_PARTS })], { error: 'a string or an array of text parts' })
      .nullish(),
    refusal: nullable(z.string()),
    name: nullable(z.string()),
    reasoning_content: nullable(z.string()),
    reasoning: nullable(z.string()),
    tool_calls: nullable(list(toolCall, { max: 128 })),
    tool_call_id: nullable(z.string().max(256)),
  })
  .transform(({ content, refusal, ...message }) => ({ ...message, content: textOf(content ?? refusal ?? '') }))

const MAX_MESSAGES = 4096

export const chatRequest = z.object({
  ...generationFields,
  messages: list(chatMessage, { min: 1, max: MAX_MESSAGES }),
  max_completion_tokens: nullable(newTokens.refine(notZero, atLeastOne)),
  max_tokens: nullable(newTokens.refine(notZero, atLeastOne)),
  n_predict: nullable(newTokens.refine(notZero, atLeastOne)),
  logprobs: nullable(z.boolean()),
  top_logprobs: nullable(z.int().min(0).max(20)),
  continue_final_message: nullable(z.boolean()),
  add_generation_prompt: nullable(z.boolean()),
  chat_template_kwargs: chatTemplateArguments,
  reasoning_effort: nullable(z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh'])),
  chat_template: unsupported(),
  documents: unsupported([[]]),
  add_special_tokens: unsupported([false]),
  echo: unsupported([false]),
  tools: nullable(list(tool, { max: 128 })),
  tool_choice: toolChoice,
  parallel_tool_calls: nullable(z.boolean()),
  thinking_budget: nullable(z.int().min(0)),
  thinking_token_budget: nullable(z.int().min(0)),
  functions: unsupported([[]]),
  function_call: unsupported(['none', 'auto']),
  audio: unsupported(),
  modalities: unsupported([['text']]),
  web_search_options: unsupported(),
  metadata,
  store: nullable(z.boolean()),
  service_tier: nullable(z.string()),
})

export const tokenizeRequest = z
  .object({
    model: nullable(z.string()),
    prompt: z
      .union([z.string(), list(z.string(), { min: 1, max: MAX_PROMPTS })], {
        error: `a string or an array of 1 to ${MAX_PROMPTS} strings`,
      })
      .optional(),
    messages: list(chatMessage, { min: 1, max: MAX_MESSAGES }).optional(),
    tools: nullable(list(tool, { max: 128 })),
    add_special_tokens: nullable(z.boolean()),
    add_generation_prompt: nullable(z.boolean()),
    continue_final_message: nullable(z.boolean()),
    chat_template_kwargs: chatTemplateArguments,
    return_token_strs: nullable(z.boolean()),
  })
  .refine((body) => (body.prompt === undefined) !== (body.messages === undefined), {
    path: ['prompt'],
    error: 'either prompt or messages',
  })
  .meta({ oneOf: [{ required: ['prompt'] }, { required: ['messages'] }] })

export const detokenizeRequest = z.object({ model: nullable(z.string()), tokens: tokenIds({ max: MAX_PROMPT_IDS }) })

/** A parsed body whose optional fields may be absent: bodies made from other APIs are like that. */
type Parsed<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: T[K] | undefined
}
export type CompletionRequest = Parsed<z.output<typeof completionRequest>>
export type ChatMessageFields = Parsed<z.output<typeof chatMessage>>
export type ChatRequest = Omit<Parsed<z.output<typeof chatRequest>>, 'messages'> & {
  readonly messages: readonly ChatMessageFields[]
}
