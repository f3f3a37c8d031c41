/**
 * Encodes prompts and decodes tokens without blocking the serving thread. Short texts are processed at once, which costs less than sending them to
 * another thread. Long texts, and short ones that take too long (because of a model's template or patterns), are processed by a thread with its own
 * tokenizer, which is loaded for the first of them.
 */
import { PromptEncoder } from './prompt-encoder.ts'
import type { ChatTemplate } from './chat-template.ts'
import type { TextAnswer, TextCall, TextRefusal, TextThreadData } from './text-protocol.ts'
import { EngineError, invalidField, shutdownError } from '../request.ts'
import type { PromptInput, TextOptions } from '../request.ts'
import { builtEntry } from '../threads/built-entry.ts'
import { DeadlineError, withDeadline } from '../threads/deadline.ts'
import { KillableThread } from '../threads/killable-thread.ts'
import { ThreadQueue } from '../threads/thread-queue.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** Characters of a request's prompts that are tokenized at once: some 10 ms at worst. */
const MAX_SHORT_CHARACTERS = 2048
/** Tokens that are decoded at once. */
const MAX_SHORT_TOKENS = 8192
/** Short texts that take longer, because of the model's patterns or template, go to the thread. */
const SHORT_MS = 40
/** After this many of them in a row, short texts are no longer tried at once: the cause was not a pause of this process. */
const MAX_LATE = 3
/** Characters per call of the thread. Other tenants have their turn between two calls. */
const LOT_CHARACTERS = 64 * 1024
/** Time limit of a text: a constant, and some hundred times the usual time per character. */
const TIMEOUT_MS = 10_000
const TIMEOUT_MS_PER_CHARACTER = 0.1
/** About the time to load another tokenizer. */
const GRACE_MS = 1000
const LOAD_TIMEOUT_MS = 120_000
/** Limits on waiting texts, of all tenants and of one. */
const MAX_WAITING = 128
const MAX_WAITING_PER_TENANT = 32

/** Encodes short prompts at once and long ones in a thread with a deadline. */
export class TextService {
  readonly #tokenizer: Tokenizer
  readonly #encoder: PromptEncoder
  /** null: the tokenizer was not loaded from a file, so everything is processed at once. */
  readonly #queue: ThreadQueue<TextCall, TextAnswer> | null
  #numLate = 0

  constructor(tokenizer: Tokenizer, chatTemplate: ChatTemplate | null, maxModelLen: number) {
    this.#tokenizer = tokenizer
    this.#encoder = new PromptEncoder(tokenizer, chatTemplate, maxModelLen)
    const { path } = tokenizer
    const data = path === null ? null : { path, template: chatTemplate?.sources ?? null, maxModelLen }
    this.#queue = data === null ? null : openQueue(data)
  }

  /** Token ids of prompts that are short enough to be encoded at once, else null. @throws as encode() */
  encodeNow(
    prompts: readonly PromptInput[],
    { addSpecialTokens = true }: TextOptions = {},
  ): readonly (readonly number[])[] | null {
    const sizes = prompts.map((prompt) => this.#encoder.check(prompt))
    if (this.#queue === null) return prompts.map((prompt) => this.#encoder.encode(prompt, { addSpecialTokens }))
    const numCharacters = sizes.reduce((sum, size) => sum + size, 0)
    return numCharacters <= MAX_SHORT_CHARACTERS ? this.#encodeInTime(prompts, addSpecialTokens) : null
  }

  /**
   * Token ids of prompts.
   * @throws EngineError: invalid_request, context_length_exceeded, queue_full where too many texts wait; and the signal's reason
   */
  async encode(prompts: readonly PromptInput[], options: TextOptions = {}): Promise<readonly (readonly number[])[]> {
    if (options.isAnyLength === true) {
      const { addSpecialTokens = true } = options
      return prompts.map((prompt) =>
        'text' in prompt
          ? this.#tokenizer.encode(prompt.text, { addSpecialTokens })
          : this.#encoder.encode(prompt, { addSpecialTokens }),
      )
    }
    const short = this.encodeNow(prompts, options)
    if (short !== null || this.#queue === null) return short ?? []
    const { addSpecialTokens = true } = options
    const sizes = prompts.map((prompt) => this.#encoder.check(prompt))
    const encoded: (readonly number[])[] = []
    for (let at = 0; at < prompts.length;) {
      let end = at
      let size = 0
      do size += sizes[end++] ?? 0
      while (end < prompts.length && size + (sizes[end] ?? 0) <= LOT_CHARACTERS)
      const lot = prompts.slice(at, end)
      const answer = await this.#run(this.#queue, { kind: 'encode', prompts: lot, addSpecialTokens }, size, options)
      if (answer.kind === 'encode') for (const ids of answer.ids) encoded.push(Array.from(ids))
      at = end
    }
    return encoded
  }

  /** Decodes token ids. @throws EngineError queue_full if too many texts wait, and the signal's reason */
  async decode(ids: readonly number[], options: TextOptions = {}): Promise<string> {
    const { skipSpecialTokens = false } = options
    if (this.#queue === null || ids.length <= MAX_SHORT_TOKENS)
      return this.#tokenizer.decode(ids, { skipSpecialTokens })
    const size = ids.length * this.#tokenizer.maxTokenBytes
    const answer = await this.#run(this.#queue, { kind: 'decode', ids, skipSpecialTokens }, size, options)
    return answer.kind === 'decode' ? answer.text : ''
  }

  /** Ends the thread; idempotent. */
  async close(): Promise<void> {
    await this.#queue?.close(shutdownError())
  }

  /** null: it takes too long for this thread. */
  #encodeInTime(prompts: readonly PromptInput[], addSpecialTokens: boolean): (readonly number[])[] | null {
    const task = () => prompts.map((prompt) => this.#encoder.encode(prompt, { addSpecialTokens }))
    if (prompts.every((prompt) => this.#encoder.isQuick(prompt))) return task()
    if (this.#numLate >= MAX_LATE) return null
    try {
      const encoded = withDeadline(SHORT_MS, task)
      this.#numLate = 0
      return encoded
    } catch (error) {
      if (!(error instanceof DeadlineError)) throw error
      this.#numLate++
      return null
    }
  }

  #run(
    queue: ThreadQueue<TextCall, TextAnswer>,
    call: TextCall,
    numCharacters: number,
    { tenant = '', signal }: TextOptions,
  ): Promise<TextAnswer> {
    const timeoutMs = TIMEOUT_MS + Math.ceil(numCharacters * TIMEOUT_MS_PER_CHARACTER)
    return queue.run(call, { tenant, signal, timeoutMs, tooSlow: () => tooSlow(call, timeoutMs) })
  }
}

function tooSlow(call: TextCall, timeoutMs: number): EngineError {
  const isMessages = call.kind === 'encode' && call.prompts.some((prompt) => 'messages' in prompt)
  const param = isMessages ? 'messages' : call.kind === 'encode' ? 'prompt' : 'tokens'
  const seconds = Math.round(timeoutMs / 1000)
  return invalidField(param, `tokenizing it takes longer than ${seconds} s`)
}

function openQueue(data: TextThreadData): ThreadQueue<TextCall, TextAnswer> {
  return new ThreadQueue({
    start: () => startTextThread(data),
    maxWaiting: MAX_WAITING,
    maxWaitingPerTenant: MAX_WAITING_PER_TENANT,
    full: () => new EngineError('queue_full', 'too many long texts are waiting to be tokenized; try again later'),
    graceMs: GRACE_MS,
  })
}

async function startTextThread(workerData: TextThreadData): Promise<KillableThread<TextCall, TextAnswer>> {
  const name = 'the tokenizer thread'
  const thread = new KillableThread<TextCall, TextAnswer>({
    name,
    entry: builtEntry('chat/text-worker'),
    workerData,
    toError: (refusal) => {
      const { code, message, param } = refusal as TextRefusal
      return new EngineError(code, message, param)
    },
  })
  const timer = setTimeout(() => void thread.close(new Error(`${name} did not start`)), LOAD_TIMEOUT_MS)
  try {
    await thread.call({ kind: 'load' })
    return thread
  } catch (error) {
    await thread.close()
    throw error
  } finally {
    clearTimeout(timer)
  }
}
