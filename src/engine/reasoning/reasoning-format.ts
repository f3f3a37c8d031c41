/** How models mark their reasoning before an answer. A format is data, found by the chat template. Names are those of vLLM's --reasoning-parser. */
import { specialTokensIn } from '../markers.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

export interface ReasoningFormat {
  readonly name: 'qwen3' | 'mistral' | 'seed_oss' | 'command_a' | 'kimi_vl' | 'gemma4' | 'openai_gptoss'
  readonly begin: string
  readonly end: string
  /** Required between reasoning and answer; '': nothing. */
  readonly next: string
  /** The beginning of an answer that is text; '': nothing. */
  readonly answer: string
  /** Every part of an answer is a message, whose channel says whether it is reasoning. */
  readonly hasChannels: boolean
}

/** A piece of an answer, split into reasoning and text. */
export interface SplitText {
  readonly reasoning: string
  readonly text: string
}

/** Splits the text of one choice into reasoning and answer. */
export interface ReasoningParser {
  /** Special tokens whose text the parser needs. */
  readonly markers: ReadonlySet<number>
  /** The next text is reasoning. */
  readonly isThinking: boolean
  push(piece: string): SplitText
  /** Ends the text and returns what was held back. */
  flush(): SplitText
}

const TAGS = { next: '', answer: '', hasChannels: false } as const

export const REASONING_FORMATS: readonly ReasoningFormat[] = [
  /** gpt-oss; the format of its conversations is called harmony. */
  {
    name: 'openai_gptoss',
    begin: '<|channel|>analysis<|message|>',
    end: '<|end|>',
    next: '<|start|>assistant',
    answer: '<|channel|>final<|message|>',
    hasChannels: true,
  },
  { ...TAGS, name: 'gemma4', begin: '<|channel>thought\n', end: '<channel|>' },
  /** Magistral. */
  { ...TAGS, name: 'mistral', begin: '[THINK]', end: '[/THINK]' },
  { ...TAGS, name: 'seed_oss', begin: '<seed:think>', end: '</seed:think>' },
  { ...TAGS, name: 'command_a', begin: '<|START_THINKING|>', end: '<|END_THINKING|>' },
  { ...TAGS, name: 'kimi_vl', begin: '◁think▷', end: '◁/think▷' },
  /** Qwen3, SmolLM3, DeepSeek, GLM 4.5, MiniMax and most others. */
  { ...TAGS, name: 'qwen3', begin: '<think>', end: '</think>' },
]

/** What --reasoning-parser takes: `auto` detects the format from the chat template, `none` leaves reasoning in the text. */
export type ReasoningParserName = 'auto' | 'none' | ReasoningFormat['name']

/** The format by name, or for `auto` the one that the chat template shows; null: no reasoning format is known. */
export function reasoningFormat(name: ReasoningParserName, template: string | null): ReasoningFormat | null {
  if (name !== 'auto') return REASONING_FORMATS.find((format) => format.name === name) ?? null
  const isOf = ({ end, hasChannels }: ReasoningFormat) => template?.includes(hasChannels ? '<|channel|>' : end) === true
  return REASONING_FORMATS.find(isOf) ?? null
}

/** Whether the prompt ends inside reasoning that its template has begun. */
export function isReasoningOpen({ begin, end, hasChannels }: ReasoningFormat, promptEnd: string): boolean {
  if (!hasChannels) return promptEnd.trimEnd().endsWith(begin.trimEnd())
  return promptEnd.lastIndexOf(begin) > promptEnd.lastIndexOf(end)
}

/** Whether the prompt ends after reasoning, because its template has switched thinking off. */
export function isReasoningClosed({ end, hasChannels }: ReasoningFormat, promptEnd: string): boolean {
  return !hasChannels && promptEnd.trimEnd().endsWith(end)
}

/** The special tokens in a format's markers, by id. */
export function reasoningMarkers(
  format: ReasoningFormat,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReadonlyMap<number, string> {
  const { begin, end, next, answer, hasChannels } = format
  return specialTokensIn([begin, end, next, answer, ...(hasChannels ? ['<|constrain|>', '<|call|>'] : [])], tokenizer)
}
