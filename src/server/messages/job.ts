/** Converts a Messages body to a chat body. */
import { defined } from '../validation.ts'
import { type ChatMessageFields, type ChatRequest, samplingOf } from '../wire.ts'
import type { CountTokensRequest, MessagesRequest } from './wire.ts'

/** A Messages body as a chat body. Content blocks become messages, calls and tool results. */
export function messagesToChat(body: MessagesRequest): ChatRequest {
  const choice = body.tool_choice
  const format = body.output_config?.format ?? body.output_format
  return {
    ...promptOf(body),
    ...samplingOf(body),
    max_completion_tokens: body.max_tokens,
    temperature: body.temperature,
    top_p: body.top_p,
    stop: body.stop_sequences ?? body.stop,
    stream: body.stream,
    rag: body.rag,
    tool_choice: toolChoice(choice),
    ...thinkingOf(body.thinking),
    parallel_tool_calls:
      choice !== undefined && 'disable_parallel_tool_use' in choice && choice.disable_parallel_tool_use
        ? false
        : undefined,
    response_format: format === undefined ? undefined : { type: 'json_schema', json_schema: { schema: format.schema } },
  }
}

/** Anthropic's switch as variables of chat templates. */
function thinkingOf(thinking: MessagesRequest['thinking']) {
  if (thinking?.type === 'disabled') return { chat_template_kwargs: { enable_thinking: false } }
  if (thinking?.type !== 'enabled') return {}
  return { chat_template_kwargs: { enable_thinking: true }, thinking_budget: thinking.budget_tokens }
}

/** The fields that make the prompt. */
export function promptOf({ model, system, messages, tools }: CountTokensRequest) {
  const systemMessage: readonly ChatMessageFields[] =
    system === undefined ? [] : [{ role: 'system', content: textOf(system) }]
  const chat = messages.flatMap(toMessages)
  const last = chat.at(-1)
  return {
    ...defined({ model }),
    messages: [...systemMessage, ...chat],
    // An answer continues a final turn of the assistant's, unless that turn is finished by its calls.
    continue_final_message: last?.role === 'assistant' && last.content !== '' && last.tool_calls === undefined,
    tools: tools?.map(({ name, description, input_schema: parameters }) => ({
      type: 'function' as const,
      function: defined({ name, description, parameters }),
    })),
  }
}

const textOf = (content: string | readonly { readonly text: string }[]): string =>
  typeof content === 'string' ? content : content.map(({ text }) => text).join('\n')

/** Results of calls in a user's turn become messages of role tool before the rest of the turn. */
function toMessages({ role, content }: CountTokensRequest['messages'][number]): ChatMessageFields[] {
  if (typeof content === 'string') return [{ role, content }]
  const results: ChatMessageFields[] = []
  const texts: string[] = []
  const calls: NonNullable<ChatMessageFields['tool_calls']> = []
  for (const block of content) {
    switch (block.type) {
      case 'text':
        texts.push(block.text)
        break
      case 'tool_use':
        calls.push({
          id: block.id,
          type: 'function',
          function: { name: block.name, arguments: JSON.stringify(block.input) },
        })
        break
      case 'tool_result':
        results.push({ role: 'tool', tool_call_id: block.tool_use_id, content: textOf(block.content ?? '') })
        break
      // The reasoning of earlier turns is not part of the conversation.
      case 'thinking':
      case 'redacted_thinking':
        break
    }
  }
  const isOnlyResults = results.length > 0 && texts.length === 0 && calls.length === 0
  if (isOnlyResults) return results
  return [...results, { role, content: texts.join('\n'), ...(calls.length === 0 ? {} : { tool_calls: calls }) }]
}

function toolChoice(choice: MessagesRequest['tool_choice']): ChatRequest['tool_choice'] {
  switch (choice?.type) {
    case 'any':
      return 'required'
    case 'tool':
      return { type: 'function', function: { name: choice.name } }
    default:
      return choice?.type
  }
}
