/** How models mark what they think before they answer: a format is data, found in the chat template. Names are those of vLLM's --reasoning-parser. */
import { specialTokensIn } from '../special-tokens.ts'
import type { Tokenizer } from '../tokenizer.ts'

export interface ReasoningFormat {
  readonly name: 'qwen3' | 'mistral' | 'seed_oss' | 'command_a' | 'kimi_vl' | 'gemma4' | 'openai_gptoss'
  readonly begin: string
  readonly end: string
  /** What has to come between a thought and an answer; '': nothing. */
  readonly next: string
  /** What an answer that is text begins with; '': nothing. */
  readonly answer: string
  /** Every part of an answer is a message with a channel, which says whether it is a thought. */
  readonly hasChannels: boolean
}

/** A piece of an answer, with its thought apart. */
export interface PartedText {
  readonly reasoning: string
  readonly text: string
}

/** Parts the text of one choice. */
export interface Thought {
  /** Tokens whose text counts, special or not. */
  readonly marks: ReadonlySet<number>
  /** What comes next is thought. */
  readonly isThinking: boolean
  push(piece: string): PartedText
  /** The end: what was held back. */
  flush(): PartedText
}

const TAGS = { next: '', answer: '', hasChannels: false } as const

export const REASONING_FORMATS: readonly ReasoningFormat[] = [
  /** gpt-oss, whose form of conversations is called harmony. */
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

/** What --reasoning-parser takes: `auto` looks into the chat template, `none` leaves thoughts in the text. */
export type ReasoningParserName = 'auto' | 'none' | ReasoningFormat['name']

/** The format by name, or by the chat template for `auto`; null: the model is not known to think. */
export function reasoningFormat(name: ReasoningParserName, template: string | null): ReasoningFormat | null {
  if (name !== 'auto') return REASONING_FORMATS.find((format) => format.name === name) ?? null
  const isOf = ({ end, hasChannels }: ReasoningFormat) => template?.includes(hasChannels ? '<|channel|>' : end) === true
  return REASONING_FORMATS.find(isOf) ?? null
}

/** The prompt ends in a thought that its template began. */
export function isOpenThought({ begin, end, hasChannels }: ReasoningFormat, promptEnd: string): boolean {
  if (!hasChannels) return promptEnd.trimEnd().endsWith(begin.trimEnd())
  return promptEnd.lastIndexOf(begin) > promptEnd.lastIndexOf(end)
}

/** The prompt ends behind a thought: its template switched thinking off. */
export function isClosedThought({ end, hasChannels }: ReasoningFormat, promptEnd: string): boolean {
  return !hasChannels && promptEnd.trimEnd().endsWith(end)
}

/** Special tokens that stand in a format's marks, by id. */
export function reasoningMarks(
  format: ReasoningFormat,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReadonlyMap<number, string> {
  const { begin, end, next, answer, hasChannels } = format
  return specialTokensIn([begin, end, next, answer, ...(hasChannels ? ['<|constrain|>', '<|call|>'] : [])], tokenizer)
}
