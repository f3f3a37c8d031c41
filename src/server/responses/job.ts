/** Converts a Responses body to a chat body. */
import { invalidRequest } from '../errors.ts'
import { defined } from '../validation.ts'
import { type ChatMessageFields, type ChatRequest, samplingOf } from '../wire.ts'
import type { ResponsesItem, ResponsesRequest } from './wire.ts'

/** A Responses body as a chat body. @param earlier messages of the conversation of previous_response_id, without instructions */
export function responsesToChat(body: ResponsesRequest, earlier: readonly ChatMessageFields[]): ChatRequest {
  const own = inputMessages(body.input)
  const instructions: readonly ChatMessageFields[] =
    body.instructions === undefined ? [] : [{ role: 'system', content: body.instructions }]
  return {
    ...defined({ model: body.model }),
    messages: [...instructions, ...earlier, ...own],
    ...samplingOf(body),
    max_completion_tokens: body.max_output_tokens,
    temperature: body.temperature,
    top_p: body.top_p,
    stream: body.stream,
    rag: body.rag,
    reasoning_effort: body.reasoning?.effort,
    parallel_tool_calls: body.parallel_tool_calls,
    tools: body.tools?.map(({ name, description, parameters, strict }) => ({
      type: 'function' as const,
      function: defined({ name, description, parameters, strict }),
    })),
    chat_template_kwargs: body.chat_template_kwargs,
    thinking_budget: body.thinking_budget ?? body.thinking_token_budget,
    tool_choice: toolChoice(body.tool_choice),
    response_format: responseFormat(body),
  }
}

function toolChoice(choice: ResponsesRequest['tool_choice']): ChatRequest['tool_choice'] {
  if (typeof choice !== 'object') return choice
  if (choice.type === 'function') return { type: 'function', function: { name: choice.name } }
  const tools = choice.tools.map(({ name }) => ({ type: 'function' as const, function: { name } }))
  return { type: 'allowed_tools', allowed_tools: { mode: choice.mode, tools } }
}

/** The messages of a request's input. The calls of one turn are one assistant message. */
export function inputMessages(input: ResponsesRequest['input']): ChatMessageFields[] {
  if (typeof input === 'string') return [{ role: 'user', content: input }]
  const messages: ChatMessageFields[] = []
  for (const item of input) addItem(messages, item)
  if (messages.length === 0)
    throw invalidRequest('input: expected at least one message or function call, found reasoning only', 'input')
  return messages
}

/** Adds an item. Calls and the text of their turn become one message, because templates write them together. */
export function addItem(messages: ChatMessageFields[], item: ResponsesItem): void {
  switch (item.type) {
    case 'function_call': {
      const call = {
        id: item.call_id,
        type: 'function' as const,
        function: { name: item.name, arguments: item.arguments },
      }
      const last = messages.at(-1)
      if (last?.role === 'assistant')
        messages[messages.length - 1] = { ...last, tool_calls: [...(last.tool_calls ?? []), call] }
      else messages.push({ role: 'assistant', content: '', tool_calls: [call] })
      return
    }
    case 'function_call_output':
      messages.push({
        role: 'tool',
        tool_call_id: item.call_id,
        content: typeof item.output === 'string' ? item.output : item.output.map(({ text }) => text).join('\n'),
      })
      return
    case 'reasoning':
      // The reasoning of earlier turns is not part of the conversation.
      return
    default:
      messages.push({
        role: item.role,
        content:
          typeof item.content === 'string'
            ? item.content
            : item.content.map((part) => (part.type === 'refusal' ? part.refusal : part.text)).join('\n'),
      })
  }
}

function responseFormat({ text }: ResponsesRequest): ChatRequest['response_format'] {
  const format = text?.format
  if (format?.type !== 'json_schema') return format
  const { name, description, strict, schema } = format
  return {
    type: 'json_schema',
    json_schema: { schema, ...defined({ name, description, strict }) },
  }
}
