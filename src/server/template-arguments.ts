/** Variables of a chat template other than the conversation. */
import { invalidRequest } from './errors.ts'
import type { ChatRequest } from './wire.ts'

/** Variables that clients set for any model. */
const COMMON = new Set(['enable_thinking', 'thinking', 'reasoning_effort', 'thinking_budget'])

/**
 * The template variables of a request; null: none. Effort `none` switches thinking off in templates that have such a switch.
 * @param source of the template; null: not known here. @param warnings gets a sentence for each switch that the template does not have
 * @throws ApiError 400 for a variable that the template does not use
 */
export function templateArgumentsOf(
  body: Partial<Pick<ChatRequest, 'chat_template_kwargs' | 'reasoning_effort'>>,
  source: string | null,
  warnings: string[] = [],
): Readonly<Record<string, unknown>> | null {
  const { chat_template_kwargs: given = {}, reasoning_effort: effort } = body
  const words = new Set(source?.match(/\w+/g))
  const uses = (name: string): boolean => source === null || words.has(name)
  /** Whether the template uses `thinking` as a variable, and not as a member of a message. */
  const isThinkingSwitch = source !== null && /(?<![.'"\w])thinking\b(?!['"])/.test(source)
  const usesThinking = uses('enable_thinking') || isThinkingSwitch
  for (const name of Object.keys(given)) {
    if (/^[a-z_]\w*$/i.test(name) && (uses(name) || (name === 'enable_thinking' && usesThinking))) continue
    if (!COMMON.has(name)) {
      throw invalidRequest(
        "chat_template_kwargs: expected variables that the model's chat template uses, found another",
        'chat_template_kwargs',
      )
    }
    warnings.push(`chat_template_kwargs: the model's chat template has no ${name}`)
  }
  if (effort !== undefined && !uses('reasoning_effort') && !(effort === 'none' && usesThinking)) {
    warnings.push("reasoning_effort: the model's chat template has no such switch")
  }
  const ofEffort =
    effort === undefined ? {} : { reasoning_effort: effort, ...(effort === 'none' ? { enable_thinking: false } : {}) }
  const all: Record<string, unknown> = { ...ofEffort, ...given }
  // Some templates call the switch by another name.
  if (all.enable_thinking !== undefined && isThinkingSwitch) all.thinking ??= all.enable_thinking
  return Object.keys(all).length === 0 ? null : all
}
