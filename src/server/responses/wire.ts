/**
 * Zod schema of requests of OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses). Unknown fields are ignored; a
 * known field that cannot be honoured is a 400 that names it.
 */
import { z } from 'zod'
import { list, nullable } from '../validation.ts'
import { chatTemplateArguments, functionType, metadata, rag, samplingFields } from '../wire.ts'
import { unsupported, unsupportedFields } from '../wire-elsewhere.ts'

/** Maximum number of items in a request: as many as messages of a chat. */
const MAX_ITEMS = 4096

const noMedia = 'this server does not support images, audio or files'
const partError = { error: `a part whose type is input_text, output_text or refusal: ${noMedia}` }

const textPart = z.object({ type: z.enum(['input_text', 'output_text', 'text'], partError), text: z.string() })
const refusalPart = z.object({ type: z.literal('refusal'), refusal: z.string() })
const reasoningPart = z.object({ type: z.enum(['reasoning_text', 'summary_text']), text: z.string() })

const contentError = `a string or an array of text parts (input_text, output_text, refusal): ${noMedia}`
const contentPart = z.discriminatedUnion('type', [textPart, refusalPart], partError)

const message = z.object({
  type: z.literal('message'),
  role: z.enum(['user', 'assistant', 'system', 'developer']),
  content: z.union([z.string(), list(contentPart, { max: MAX_ITEMS })], { error: contentError }),
})

const functionCall = z.object({
  type: z.literal('function_call'),
  call_id: z.string().min(1).max(256),
  name: z.string().min(1).max(256),
  arguments: z.string(),
})

const functionCallOutput = z.object({
  type: z.literal('function_call_output'),
  call_id: z.string().min(1).max(256),
  output: z.union([z.string(), list(textPart, { max: MAX_ITEMS })], {
    error: 'a string or an array of input_text parts',
  }),
})

const reasoning = z.object({
  type: z.literal('reasoning'),
  summary: nullable(list(reasoningPart, { max: MAX_ITEMS })),
  content: nullable(list(reasoningPart, { max: MAX_ITEMS })),
})

const item = z.discriminatedUnion('type', [message, functionCall, functionCallOutput, reasoning], {
  error: 'an item whose type is message, function_call, function_call_output or reasoning',
})

const functionTool = z.object({
  type: functionType,
  name: z.string().min(1).max(256),
  description: nullable(z.string()),
  parameters: nullable(z.record(z.string(), z.unknown())),
  strict: nullable(z.boolean()),
})

const namedFunction = z.object({ type: z.literal('function'), name: z.string().min(1).max(256) })

const allowedTools = z.object({
  type: z.literal('allowed_tools'),
  mode: z.enum(['auto', 'required']),
  tools: list(z.looseObject({ type: z.literal('function'), name: z.string().max(256) }), { max: 128 }),
})

const textFormat = z.discriminatedUnion(
  'type',
  [
    z.object({ type: z.literal('text') }),
    z.object({ type: z.literal('json_object') }),
    z.object({
      type: z.literal('json_schema'),
      name: z.string().optional(),
      description: nullable(z.string()),
      strict: nullable(z.boolean()),
      schema: z.record(z.string(), z.unknown()),
    }),
  ],
  { error: 'an object whose type is text, json_object or json_schema' },
)

/** Values of `include` that are accepted: the response has these parts, or they cannot occur. */
const ANSWERED_INCLUDES = [
  'reasoning.encrypted_content',
  'message.input_image.image_url',
  'file_search_call.results',
  'web_search_call.results',
  'web_search_call.action.sources',
  'code_interpreter_call.outputs',
  'computer_call_output.output.image_url',
] as const

export const responsesRequest = z.object({
  model: nullable(z.string()),
  input: z.union([z.string(), list(item, { min: 1, max: MAX_ITEMS })], {
    error: 'a string or an array of message, function_call, function_call_output and reasoning items',
  }),
  instructions: nullable(z.string()),
  previous_response_id: nullable(z.string().min(1).max(256)),
  store: nullable(z.boolean()),
  stream: nullable(z.boolean()),
  max_output_tokens: nullable(z.int().min(1)),
  temperature: nullable(z.number().min(0).max(2)),
  top_p: nullable(z.number().min(0).max(1)),
  tools: nullable(list(functionTool, { max: 128 })),
  tool_choice: nullable(
    z.union([z.enum(['none', 'auto', 'required']), namedFunction, allowedTools], {
      error:
        "'none', 'auto', 'required' or an object {type: 'function', name} or {type: 'allowed_tools', mode, tools: [{type: 'function', name}]}",
    }),
  ),
  parallel_tool_calls: nullable(z.boolean()),
  text: nullable(z.object({ format: nullable(textFormat) })),
  reasoning: nullable(
    z.object({
      effort: nullable(z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh'])),
      summary: nullable(z.string()),
    }),
  ),
  chat_template_kwargs: chatTemplateArguments,
  thinking_budget: nullable(z.int().min(0)),
  thinking_token_budget: nullable(z.int().min(0)),
  ...samplingFields,
  ...unsupportedFields,
  include: nullable(list(z.enum(ANSWERED_INCLUDES), { max: 16 })),
  max_tokens: unsupported(),
  response_format: unsupported(),
  top_logprobs: unsupported([0]),
  truncation: unsupported(['disabled', 'auto']),
  background: unsupported([false]),
  conversation: unsupported(),
  prompt: unsupported(),
  metadata,
  user: nullable(z.string()),
  rag,
})

/** Adds the type to messages: the API allows leaving it out. */
export function withItemTypes(body: unknown): unknown {
  if (typeof body !== 'object' || body === null || !('input' in body) || !Array.isArray(body.input)) return body
  if (body.input.length > MAX_ITEMS) return body
  const input = body.input.map((entry: unknown) =>
    typeof entry === 'object' && entry !== null && 'role' in entry && !('type' in entry)
      ? { ...entry, type: 'message' }
      : entry,
  )
  return { ...body, input }
}

export type ResponsesRequest = z.output<typeof responsesRequest>
export type ResponsesItem = z.output<typeof item>
