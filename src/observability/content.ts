/**
 * Captured content in the format of OpenTelemetry's GenAI conventions: messages with roles and parts. Only with
 * MINISERVE_CAPTURE_CONTENT=true.
 */

export type ContentPart =
  | { readonly type: 'text' | 'reasoning'; readonly content: string }
  | { readonly type: 'tool_call'; readonly id: string | null; readonly name: string; readonly arguments: unknown }
  | { readonly type: 'tool_call_response'; readonly id: string | null; readonly response: unknown }

export interface ContentMessage {
  readonly role: string
  readonly parts: readonly ContentPart[]
  /** Only on output messages. */
  readonly finish_reason?: string
}

/** The captured content of a request. */
export interface CapturedContent {
  readonly systemInstructions?: readonly ContentPart[]
  readonly input?: readonly ContentMessage[]
  readonly output?: readonly ContentMessage[]
  readonly tools?: readonly unknown[]
}

/** The attributes of captured content. Missing and empty content has no attribute. */
export function contentAttributes({ systemInstructions, input, output, tools }: CapturedContent) {
  const json = (items: readonly unknown[] | undefined) => (items?.length ? contentJson(items) : undefined)
  return {
    'gen_ai.system_instructions': json(systemInstructions),
    'gen_ai.input.messages': json(input),
    'gen_ai.output.messages': json(output),
    'gen_ai.tool.definitions': json(tools),
  }
}

/** Maximum number of characters of a content attribute. */
const MAX_CONTENT_CHARACTERS = 256 * 1024
const SHORTEST_STRING = 64

/** JSON of a list within the limit. Long strings are shortened, then the oldest items are dropped, so that it stays valid JSON. */
function contentJson(items: readonly unknown[], maxCharacters = MAX_CONTENT_CHARACTERS): string {
  let json = JSON.stringify(items)
  for (let longest = maxCharacters; json.length > maxCharacters && longest > SHORTEST_STRING;) {
    longest = Math.max(SHORTEST_STRING, Math.floor(longest / 2))
    const bound = longest
    json = JSON.stringify(items, (_key, value: unknown) =>
      typeof value === 'string' && value.length > bound ? `${value.slice(0, bound)}…` : value,
    )
  }
  if (json.length <= maxCharacters || items.length <= 1) return json.length <= maxCharacters ? json : '[]'
  return contentJson(items.slice(Math.ceil(items.length / 2)), maxCharacters)
}
