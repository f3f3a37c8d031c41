/** Encodes prompts as token ids: text with the tokenizer, messages first through the model's chat template. */
import type { ChatTemplate } from './chat-template.ts'
import { EngineError, invalidField } from '../request.ts'
import type { PromptInput } from '../request.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { DeadlineError, withDeadline } from '../threads/deadline.ts'

/** Wall-clock limit for patterns that may take more than linear time; generous, because the machine may be busy. */
const DEADLINE_MS = 2000
const DEADLINE_MS_PER_CHARACTER = 0.02
/** Too short for any pattern to take long. */
const SHORT_CHARACTERS = 20

/**
 * Encodes prompts.
 * @throws EngineError for what the template refuses, and for prompts longer than the model's context
 */
export class PromptEncoder {
  readonly #tokenizer: Tokenizer
  readonly #chatTemplate: ChatTemplate | null
  readonly #maxModelLen: number

  constructor(tokenizer: Tokenizer, chatTemplate: ChatTemplate | null, maxModelLen: number) {
    this.#tokenizer = tokenizer
    this.#chatTemplate = chatTemplate
    this.#maxModelLen = maxModelLen
  }

  /** Bytes of text in a prompt. @throws EngineError context_length_exceeded for one that cannot fit, even in the longest tokens */
  check(prompt: PromptInput): number {
    if ('ids' in prompt) return 0
    if ('text' in prompt) return this.#checkBytes(Buffer.byteLength(prompt.text), 'prompt')
    const { messages, tools, templateArguments } = prompt
    return this.#checkBytes(countBytes(messages) + countBytes(tools) + countBytes(templateArguments), 'messages')
  }

  /** Whether encoding takes time proportional to the prompt, whatever the model's files say. */
  isQuick(prompt: PromptInput): boolean {
    return 'ids' in prompt || ('text' in prompt && this.#isLinear(prompt.text))
  }

  /** @throws EngineError invalid_request or context_length_exceeded */
  encode(prompt: PromptInput, options: { readonly addSpecialTokens?: boolean } = {}): readonly number[] {
    if ('ids' in prompt) return prompt.ids
    if ('text' in prompt) return this.#encode(prompt.text, 'prompt', options)
    if (this.#chatTemplate === null) {
      throw invalidField(
        'messages',
        'this model has no chat template; use /v1/completions, or start the server with --chat-template FILE',
      )
    }
    this.check(prompt)
    const { messages, tools = [], addGenerationPrompt, templateArguments = {} } = prompt
    // Special tokens in messages are escaped: only the template may begin and end turns.
    const escape = (text: string) => this.#tokenizer.escapeSpecialTokens(text)
    const text = this.#chatTemplate.render(mapStrings(messages, escape), {
      tools: mapStrings(tools, escape),
      continueFinalMessage: prompt.continueFinalMessage === true,
      ...(addGenerationPrompt === undefined ? {} : { addGenerationPrompt }),
      templateArguments: mapStrings(templateArguments, escape),
    })
    return this.#encode(text, 'messages', { addSpecialTokens: false })
  }

  #encode(text: string, param: string, options: { readonly addSpecialTokens?: boolean }): readonly number[] {
    this.#checkBytes(Buffer.byteLength(text), param)
    if (this.#isLinear(text)) return this.#tokenizer.encode(text, options)
    try {
      const ms = DEADLINE_MS + Math.ceil(text.length * DEADLINE_MS_PER_CHARACTER)
      return withDeadline(ms, () => this.#tokenizer.encode(text, options))
    } catch (error) {
      if (!(error instanceof DeadlineError)) throw error
      const problem = `the model's tokenizer.json takes too long for this text (${error.message}); the cost of its patterns or replacements grows faster than the text`
      throw invalidField(param, problem, error)
    }
  }

  #isLinear(text: string): boolean {
    return this.#tokenizer.isLinear || text.length <= SHORT_CHARACTERS
  }

  #checkBytes(numBytes: number, param: string): number {
    const maxBytes = this.#maxModelLen * this.#tokenizer.maxTokenBytes
    if (numBytes <= maxBytes) return numBytes
    const message = `${param}: this model's maximum context length is ${this.#maxModelLen} tokens, at most ${maxBytes} bytes of text; found ${numBytes} bytes`
    throw new EngineError('context_length_exceeded', message, param)
  }
}

/** Bytes of all strings in a value. */
function countBytes(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (typeof value !== 'object' || value === null) return 0
  return Object.entries(value).reduce((sum, [key, item]) => sum + Buffer.byteLength(key) + countBytes(item), 0)
}

/** A copy of the value with every string changed, keys included. */
function mapStrings<T>(value: T, map: (text: string) => string): T
function mapStrings(value: unknown, map: (text: string) => string): unknown {
  if (typeof value === 'string') return map(value)
  if (Array.isArray(value)) return value.map((item: unknown) => mapStrings(item, map))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [map(key), mapStrings(item, map)]))
}
