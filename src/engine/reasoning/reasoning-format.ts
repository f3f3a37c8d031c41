/** How models mark what they think before they answer: a format is data, found in the chat template. Names are those of vLLM's --reasoning-parser. */

export interface ReasoningFormat {
  readonly name: 'qwen3' | 'mistral' | 'seed_oss' | 'command_a' | 'kimi_vl'
  readonly begin: string
  readonly end: string
}

const FORMATS: readonly ReasoningFormat[] = [
  /** Qwen3, SmolLM3, DeepSeek R1, GLM 4.5 and most others. */
  { name: 'qwen3', begin: '<think>', end: '</think>' },
  /** Magistral. */
  { name: 'mistral', begin: '[THINK]', end: '[/THINK]' },
  { name: 'seed_oss', begin: '<seed:think>', end: '</seed:think>' },
  { name: 'command_a', begin: '<|START_THINKING|>', end: '<|END_THINKING|>' },
  { name: 'kimi_vl', begin: '◁think▷', end: '◁/think▷' },
]

/** What --reasoning-parser takes: `auto` looks into the chat template, `none` leaves thoughts in the text. */
export type ReasoningParserName = 'auto' | 'none' | ReasoningFormat['name']

/** The format by name, or by the chat template for `auto`; null: the model is not known to think. */
export function reasoningFormat(name: ReasoningParserName, template: string | null): ReasoningFormat | null {
  if (name !== 'auto') return FORMATS.find((format) => format.name === name) ?? null
  return FORMATS.find(({ end }) => template?.includes(end) === true) ?? null
}

/** The prompt ends in a thought that its template began. */
export function isOpenThought({ begin }: ReasoningFormat, promptEnd: string): boolean {
  return promptEnd.trimEnd().endsWith(begin)
}
