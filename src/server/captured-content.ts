/** A request's content in the format of OpenTelemetry's conventions, with MINISERVE_CAPTURE_CONTENT. */
import type { ChatMessage, Engine, PromptInput } from '../engine/request.ts'
import type { CapturedContent, ContentMessage, ContentPart } from '../observability/content.ts'
import type { GenerationJob } from './job.ts'
import type { Call, ChoiceResult, GenerationResult } from './generation-result.ts'

const text = (content: string): ContentPart => ({ type: 'text', content })

/** What the caller sent. */
export async function inputContent({ generation }: GenerationJob, engine: Engine): Promise<CapturedContent> {
  const [first] = generation.prompts
  if (first === undefined || !('messages' in first)) return promptContent(generation.prompts, engine)
  const isSystem = ({ role }: ChatMessage) => role === 'system' || role === 'developer'
  return {
    systemInstructions: first.messages.filter(isSystem).map(({ content }) => text(content)),
    input: first.messages.filter((message) => !isSystem(message)).map(toContent),
    tools: (first.tools ?? []).map((tool) =>
      'function' in tool && typeof tool['function'] === 'object'
        ? { type: 'function', ...tool['function'] }
        : { type: 'function', ...tool },
    ),
  }
}

/** Prompts as the model gets them, with the retrieved documents. */
export async function promptContent(prompts: readonly PromptInput[], engine: Engine): Promise<CapturedContent> {
  const input: ContentMessage[] = []
  for (const prompt of prompts) {
    if ('messages' in prompt) input.push(...prompt.messages.map(toContent))
    else {
      const content = 'text' in prompt ? prompt.text : await engine.decode(prompt.ids)
      if (content !== null) input.push({ role: 'user', parts: [text(content)] })
    }
  }
  return { input }
}

/** Texts that are embedded or searched for. */
export const textContent = (texts: readonly string[]): CapturedContent => ({
  input: texts.map((content) => ({ role: 'user', parts: [text(content)] })),
})

/** The model's output, one message per choice. */
export const outputContent = (result: GenerationResult): CapturedContent => ({ output: result.choices.map(toOutput) })

function toContent({ role, content, toolCalls = [], toolCallId }: ChatMessage): ContentMessage {
  if (role === 'tool') {
    return { role, parts: [{ type: 'tool_call_response', id: toolCallId ?? null, response: content }] }
  }
  return {
    role,
    parts: [...(content === '' && toolCalls.length > 0 ? [] : [text(content)]), ...toolCalls.map(toCall)],
  }
}

function toOutput(choice: ChoiceResult): ContentMessage {
  const reason = choice.finished?.reason ?? 'error'
  return {
    role: 'assistant',
    parts: [
      ...(choice.reasoning === '' ? [] : [{ type: 'reasoning', content: choice.reasoning } as const]),
      ...(choice.text === '' && choice.calls.length > 0 ? [] : [text(choice.text)]),
      ...choice.calls.map(toCall),
    ],
    finish_reason: choice.calls.length > 0 && reason === 'stop' ? 'tool_call' : reason,
  }
}

const toCall = ({ id, name, arguments: json }: Call) =>
  ({ type: 'tool_call', id, name, arguments: parsed(json) }) as const

/** The arguments of a call; text if they are not valid JSON because the answer was cut off. */
function parsed(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return json
  }
}
