/** What a stream knows of its choices besides their text: token counts, text offsets and prompts. */
import type { PromptEvent, TokenEvent } from '../engine/request.ts'
import type { GenerationJob } from './job.ts'
import { numCharacters } from './logprobs.ts'

/** Token counts and text offsets of a stream's choices. */
export class StreamCounts {
  /** Whether the chunks of a choice contain nothing but text. */
  readonly isPlain: boolean
  readonly #job: GenerationJob
  readonly #prompts: PromptEvent[] = []
  readonly #numTokens: number[] = []
  readonly #offsets: number[] = []
  /** Choices whose prompt ids have been sent. */
  readonly #introduced = new Set<number>()

  constructor(job: GenerationJob) {
    this.#job = job
    this.isPlain = job.shown.logprobs < 0 && !job.returnTokenIds && !job.continuousUsage
  }

  /** Whether the event adds nothing to a chunk. */
  isEmpty(event: TokenEvent): boolean {
    return event.text === '' && !event.logprobs?.length && !(this.#job.returnTokenIds && event.tokenIds.length > 0)
  }

  addPrompt(event: PromptEvent): void {
    this.#prompts[event.promptIndex] = event
  }

  addToken({ choice, tokenIds }: TokenEvent): void {
    this.#numTokens[choice] = (this.#numTokens[choice] ?? 0) + tokenIds.length
  }

  /** The offset of the choice's next text, in characters. Moves it past `text`. */
  moveOffset(choice: number, text: string): number {
    const offset = this.#offsets[choice] ?? 0
    this.#offsets[choice] = offset + numCharacters(text)
    return offset
  }

  /** The `usage` of a chunk, if every chunk has one. It covers this choice only, as in vLLM. */
  usage(choice: number): { readonly usage?: object } {
    if (!this.#job.continuousUsage) return {}
    const prompt = this.#promptOf(choice)?.numTokens ?? 0
    const completion = this.#numTokens[choice] ?? 0
    return {
      usage: { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion },
    }
  }

  /** The ids of the choice's prompt, for its first chunk. */
  promptIds(choice: number): { readonly prompt_token_ids?: readonly number[] | null } {
    if (!this.#job.returnTokenIds || this.#introduced.has(choice)) return {}
    this.#introduced.add(choice)
    return { prompt_token_ids: this.#promptOf(choice)?.tokenIds ?? null }
  }

  #promptOf(choice: number): PromptEvent | undefined {
    return this.#prompts[Math.floor(choice / this.#job.shown.choices)]
  }
}
