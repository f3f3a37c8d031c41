/** What a stream has to know of its choices besides their text: tokens so far, where their text is, what their prompts are. */
import type { PromptEvent, TokenEvent } from '../engine/request.ts'
import type { GenerationJob } from './job.ts'
import { numCharacters } from './logprobs.ts'

/** Token counts and text offsets of a stream's choices. */
export class StreamCounts {
  readonly #job: GenerationJob
  readonly #prompts: PromptEvent[] = []
  readonly #numTokens: number[] = []
  readonly #offsets: number[] = []
  /** Choices whose prompt's ids have gone out. */
  readonly #introduced = new Set<number>()

  constructor(job: GenerationJob) {
    this.#job = job
  }

  addPrompt(event: PromptEvent): void {
    this.#prompts[event.promptIndex] = event
  }

  addToken({ choice, tokenIds }: TokenEvent): void {
    this.#numTokens[choice] = (this.#numTokens[choice] ?? 0) + tokenIds.length
  }

  /** Where the choice's next text begins, in characters; it then begins behind `text`. */
  moveOffset(choice: number, text: string): number {
    const offset = this.#offsets[choice] ?? 0
    this.#offsets[choice] = offset + numCharacters(text)
    return offset
  }

  /** A chunk's `usage` where each is to have it, as vLLM says it: of this choice alone. */
  usage(choice: number): { readonly usage?: object } {
    if (!this.#job.continuousUsage) return {}
    const prompt = this.#promptOf(choice)?.numTokens ?? 0
    const completion = this.#numTokens[choice] ?? 0
    return {
      usage: { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion },
    }
  }

  /** The ids of the choice's prompt, in its first chunk. */
  promptIds(choice: number): { readonly prompt_token_ids?: readonly number[] | null } {
    if (!this.#job.returnTokenIds || this.#introduced.has(choice)) return {}
    this.#introduced.add(choice)
    return { prompt_token_ids: this.#promptOf(choice)?.tokenIds ?? null }
  }

  #promptOf(choice: number): PromptEvent | undefined {
    return this.#prompts[Math.floor(choice / this.#job.shown.choices)]
  }
}
