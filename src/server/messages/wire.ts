/**
 * Zod schemas of the requests of Anthropic's Messages API (https://docs.anthropic.com/en/api/messages). Unknown fields are ignored; a known
 * field that cannot be honoured is a 400 that names it.
 */
import { z } from 'zod'
import { list, nullable } from '../validation.ts'
import { rag, samplingFields } from '../wire.ts'
import { unsupported, unsupportedFields } from '../wire-elsewhere.ts'

const MAX_MESSAGES = 4096
const MAX_BLOCKS = 4096

const textBlock = z.object({ type: z.literal('text'), text: z.string() })
const thinkingBlock = z.object({ type: z.literal('thinking'), thinking: z.string() })
const redactedBlock = z.object({ type: z.literal('redacted_thinking') })
const toolUseBlock = z.object({
  type: z.literal('tool_use'),
  id: z.string().min(1).max(256),
  name: z.string().min(1).max(256),
  input: z.record(z.string(), z.unknown()),
})
const toolResultBlock = z.object({
  type: z.literal('tool_result'),
  tool_use_id: z.string().min(1).max(256),
  content: nullable(
    z.union([z.string(), list(textBlock, { max: MAX_BLOCKS })], { error: 'a string or an array of text blocks' }),
  ),
  is_error: nullable(z.boolean()),
})

const block = z.discriminatedUnion('type', [textBlock, thinkingBlock, redactedBlock, toolUseBlock, toolResultBlock], {
  error:
    'a block whose type is text, thinking, tool_use or tool_result: this server does not support images or documents',
})

const message = z.object({
  role: z.enum(['user', 'assistant', 'system']),
  content: z.union([z.string(), list(block, { max: MAX_BLOCKS })], { error: 'a string or an array of content blocks' }),
})

const tool = z.object({
  type: z.literal('custom', { error: 'custom, the only type of tool that this server supports' }).nullish(),
  name: z.string().min(1).max(256),
  description: nullable(z.string()),
  input_schema: z.record(z.string(), z.unknown()),
})

const parallel = { disable_parallel_tool_use: nullable(z.boolean()) }
const toolChoice = z.discriminatedUnion(
  'type',
  [
    z.object({ type: z.literal('auto'), ...parallel }),
    z.object({ type: z.literal('any'), ...parallel }),
    z.object({ type: z.literal('tool'), name: z.string().min(1).max(256), ...parallel }),
    z.object({ type: z.literal('none') }),
  ],
  { error: 'an object whose type is auto, any, tool or none' },
)

const jsonFormat = z.object({ type: z.literal('json_schema'), schema: z.record(z.string(), z.unknown()) })

const prompt = {
  model: nullable(z.string()),
  messages: list(message, { min: 1, max: MAX_MESSAGES }),
  system: nullable(
    z.union([z.string(), list(textBlock, { max: MAX_BLOCKS })], { error: 'a string or an array of text blocks' }),
  ),
  tools: nullable(list(tool, { max: 128 })),
  tool_choice: nullable(toolChoice),
  thinking: nullable(
    z.discriminatedUnion(
      'type',
      [
        z.object({ type: z.literal('enabled'), budget_tokens: nullable(z.int().min(1)) }),
        z.object({ type: z.literal('adaptive') }),
        z.object({ type: z.literal('disabled') }),
      ],
      { error: 'an object whose type is enabled, adaptive or disabled' },
    ),
  ),
}

export const messagesRequest = z.object({
  ...samplingFields,
  ...unsupportedFields,
  ...prompt,
  max_tokens: z.int().min(1),
  temperature: nullable(z.number().min(0).max(2)),
  top_p: nullable(z.number().min(0).max(1)),
  top_k: nullable(z.int().min(0).max(1_000_000)),
  stop_sequences: nullable(list(z.string().min(1), { max: 16 })),
  stream: nullable(z.boolean()),
  metadata: nullable(z.object({ user_id: nullable(z.string()) })),
  output_config: nullable(z.object({ format: nullable(jsonFormat) })),
  output_format: nullable(jsonFormat),
  container: unsupported(),
  mcp_servers: unsupported([[]]),
  context_management: unsupported(),
  rag,
})

export const countTokensRequest = z.object(prompt)

export type MessagesRequest = z.output<typeof messagesRequest>
export type CountTokensRequest = z.output<typeof countTokensRequest>
