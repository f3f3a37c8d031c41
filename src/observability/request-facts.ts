/** What is known of a request: what its body asked for, what the engine counted, and how it ended. */
import type { RequestSummary } from '../engine/summary.ts'
import type { EndingRow } from './endings.ts'
import { type GenerationInfo, outcomeAttributes, type ResultInfo, type RootAttributes } from './root-span.ts'

/** How the response ended. */
export interface Ended {
  readonly row: EndingRow
  readonly status: number | null
  /** error.type of the root; null: it has none. */
  readonly errorType: string | null
  /** performance.now(). */
  readonly atMs: number
}

/** Facts of one request, collected while it runs, for its root span, last log line and metrics. */
export class RequestFacts {
  /** performance.now() of the request's arrival. */
  readonly startMs = performance.now()
  /** What the body asked for; null before it is valid. */
  generation: GenerationInfo | null = null
  /** The result of the generation so far. */
  result: ResultInfo | null = null
  /** The engine's times and counts; null until it is done with the request. */
  phases: RequestSummary | null = null
  /** null until the response is over. */
  ended: Ended | null = null
  #firstChunkMs: number | null = null
  /** Prompt tokens of the queued sequences; null if the engine never accepted the request. */
  #acceptedTokens: number | null = null

  /** The first chunk of the stream is being sent. */
  firstChunk(): void {
    this.#firstChunkMs ??= performance.now()
  }

  /** The engine accepted a sequence of the request. */
  accepted(numPromptTokens: number, countsPrompt: boolean): void {
    this.#acceptedTokens = (this.#acceptedTokens ?? 0) + (countsPrompt ? numPromptTokens : 0)
  }

  /** Seconds from the request's arrival to its first token; null before. */
  get ttftSeconds(): number | null {
    const atMs = this.phases?.firstTokenMs ?? null
    return atMs === null ? null : Math.max(0, atMs - this.startMs) / 1000
  }

  /** Why each choice ended: as in the response if it was sent completely, else as the engine reports it; undefined before. */
  get finishReasons(): readonly string[] | undefined {
    const shown = this.result?.finishReasons ?? []
    const ended = this.phases?.finishReasons ?? []
    const isWhole = this.ended?.row.ending === 'success' && shown.length > 0
    const reasons = isWhole || shown.length >= ended.length ? shown : ended
    return reasons.length > 0 ? reasons : undefined
  }

  /** Generated tokens: the engine's final count, else that of the response, else 0; null until the engine has accepted the request. */
  get tokensOut(): number | null {
    return this.phases?.tokensOut ?? this.result?.tokensOut ?? (this.#acceptedTokens === null ? null : 0)
  }

  /** Tokens of the final prompt; null until the engine has accepted the request. */
  get tokensIn(): number | null {
    return this.phases?.tokensIn ?? this.result?.tokensIn ?? this.#acceptedTokens
  }

  /** Attributes of http.handler for the outcome. */
  outcome(requestId: string): RootAttributes {
    const { tokensIn, ended } = this
    if (this.#acceptedTokens === null || tokensIn === null || !ended || ended.row.isRefusal) return {}
    return outcomeAttributes({
      requestId,
      isScored: this.result?.isScored ?? this.generation?.maxTokens === 0,
      tokensIn,
      tokensOut: this.tokensOut,
      finishReasons: this.finishReasons,
      summary: this.phases,
      result: this.result,
      firstChunkSeconds: this.#firstChunkMs === null ? null : (this.#firstChunkMs - this.startMs) / 1000,
    })
  }
}
