/** A generation as a stream of frames: events in, server-sent events out, and the trace closed where the stream ends or breaks. */
import type { GenerationEvent, GenerationStream } from '../engine/request.ts'
import { openStage, type OpenStage } from '../observability/context.ts'
import type { RequestTrace } from '../observability/request-trace.ts'
import type { Citations } from '../rag/service.ts'
import { outputContent } from './captured-content.ts'
import { endingOf, toApiError } from './errors.ts'
import type { GenerationJob } from './job.ts'
import { GenerationResult, tailOf } from './generation-result.ts'
import type { Shape } from './output.ts'
import type { Frames, FrameSource } from './sse.ts'
import { Slice } from '../rag/slice.ts'

/** The life of one request around the pipeline. */
export interface ServedRequest {
  readonly trace: RequestTrace
  /** Aborted when the client goes away, and by the pipeline when a stream is closed early. */
  readonly abort: AbortController
  /** The engine has the request: its place before the engine is free again. */
  readonly admitted: () => void
  /** Charges the caller's key for tokens. */
  readonly charge: (tokens: number) => void
}

/** What the engine took: its first event, and the others to come. */
export interface Accepted {
  /** undefined: the request was over before it had one. */
  readonly first: GenerationEvent | undefined
  readonly events: GenerationStream
}

/** A running generation and the wire that formats it. */
export interface AcceptedGeneration {
  readonly job: GenerationJob
  readonly accepted: Accepted
  readonly shape: Shape
  readonly citations: Citations | null
}

/** The frames of a generation. Its methods may be called in any async context. */
export class StreamedOutput implements FrameSource {
  readonly #generation: AcceptedGeneration
  readonly #scope: ServedRequest
  readonly #result: GenerationResult
  /** null until the first frame is asked for. */
  #stage: OpenStage<'format.output'> | null = null
  #isOver = false
  /** What there is to write. */
  readonly #queue: Frames[] = []
  #isPaused = false
  /** A part of the first of them is written. */
  #isCut = false
  #onReadable: () => void = () => {}

  constructor(generation: AcceptedGeneration, scope: ServedRequest) {
    this.#generation = generation
    this.#scope = scope
    this.#result = new GenerationResult(generation.job)
  }

  take(): string | null {
    // The next of it is made in another turn of the event loop.
    if (this.#isPaused) return ''
    const slice = new Slice()
    let frames = ''
    if (this.#stage === null) this.#begin()
    for (;;) {
      frames += this.#write(slice)
      if (this.#queue.length > 0) {
        this.#pause()
        return frames
      }
      // Aborted and with nothing more to say: the end, not a wait for the next frame.
      if (this.#isOver) return frames === '' ? null : frames
      if (!this.#advance()) return frames
    }
  }

  /** Queues the frames before the engine's first event, and those of it. */
  #begin(): void {
    const { accepted, shape } = this.#generation
    this.#stage = this.#scope.trace.run(() => openStage('format.output'))
    try {
      this.#queue.push(shape.opening())
      if (accepted.first !== undefined) this.#queue.push(this.#framesOf(accepted.first))
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Queues the frames of the next event, or of the end; false: there is no event yet. */
  #advance(): boolean {
    try {
      const next = this.#generation.accepted.events.poll()
      if (next === null) return false
      if (next.done === true) this.#finish()
      else this.#queue.push(this.#framesOf(next.value))
    } catch (error) {
      this.#fail(error)
    }
    return true
  }

  /** As much of the queue as fits into a time slice. A frame that cannot be serialised is replaced by an error frame. */
  #write(slice: Slice): string {
    let frames = ''
    /** Where the frame under way begins. */
    let start = 0
    for (;;) {
      const [head] = this.#queue
      if (head === undefined || slice.isOver) {
        this.#isCut ||= frames.length > start
        return frames
      }
      try {
        const { done, value } = typeof head === 'string' ? { done: true, value: head } : head.next()
        frames += value ?? ''
        if (done !== true) continue
        this.#queue.shift()
      } catch (error) {
        // Its trace is closed: the stream breaks off.
        if (this.#isOver) throw error
        frames = this.#isCut ? `${frames}\n\n` : frames.slice(0, start)
        this.#queue.length = 0
        this.#fail(error)
      }
      this.#isCut = false
      start = frames.length
    }
  }

  #pause(): void {
    this.#isPaused = true
    setImmediate(() => {
      this.#isPaused = false
      this.#onReadable()
    })
  }

  onReadable(listener: () => void): void {
    this.#onReadable = listener
    this.#generation.accepted.events.onReadable(listener)
  }

  cancel(): void {
    if (this.#isOver) return
    const { abort } = this.#scope
    const ending = abort.signal.aborted ? 'client_disconnect' : 'closed_early'
    abort.abort()
    // The engine has ended the choices; what it said of them goes into the trace.
    this.#drain()
    void this.#generation.accepted.events.return?.()
    this.#close()
    this.#scope.trace.finish({ ending, status: 200 })
  }

  #framesOf(event: GenerationEvent): Frames {
    const { job, shape, citations } = this.#generation
    const result = this.#result
    result.add(event, this.#scope.trace.capturesContent)
    switch (event.type) {
      case 'prompt':
        return shape.prompt(event)
      case 'promptLogprobs':
        return shape.echo(event)
      case 'token':
        this.#scope.trace.facts.firstChunk()
        return shape.token(event)
      case 'finished':
        return shape.finished(event, result.isComplete && !job.includeUsage ? tailOf(result, citations) : null)
    }
  }

  /** The engine has said everything. The trace closes before the stream's end mark is written. */
  #finish(): void {
    const { shape, citations } = this.#generation
    const { trace, abort } = this.#scope
    this.#queue.push(shape.closing(this.#result, citations))
    this.#close()
    if (abort.signal.aborted) {
      trace.finish({ ending: 'client_disconnect', status: 200 })
      return
    }
    trace.finish({ ending: 'success', status: 200 })
    this.#queue.push(shape.done)
  }

  #fail(error: unknown): void {
    const { trace } = this.#scope
    const { shape } = this.#generation
    // Where the error is not the engine's own, it is still at work.
    void this.#generation.accepted.events.return?.()
    this.#close()
    trace.finish({ ...endingOf(error), status: 200 })
    this.#queue.push(shape.error(toApiError(error, trace.traceId)), shape.done)
  }

  #close(): void {
    this.#isOver = true
    const { job } = this.#generation
    this.#stage?.end({ 'llm.tokens.out': this.#result.summary.tokensOut, 'output.format': 'sse' })
    noteResult(this.#scope, job, this.#result)
  }

  /** Reads events that no one will receive, for their counts. */
  #drain(): void {
    const { trace } = this.#scope
    try {
      for (;;) {
        const next = this.#generation.accepted.events.poll()
        if (next === null || next.done === true) return
        this.#result.add(next.value, trace.capturesContent)
      }
    } catch {
      // A request that failed while its client left has ended by leaving.
    }
  }
}

/** What the root span and the story's last line say of the result. */
export function noteResult(
  { trace, charge }: Pick<ServedRequest, 'trace' | 'charge'>,
  job: GenerationJob,
  result: GenerationResult,
): void {
  const { total_tokens: numTokens } = result.usage()
  charge(numTokens)
  trace.setResult({
    tokensIn: result.numPromptTokens,
    tokensOut: result.summary.tokensOut,
    cachedTokens: result.summary.cacheHits,
    finishReasons: result.finishReasons,
    timeToFirstTokenSeconds: result.summary.ttftSeconds,
    isScored: job.generation.maxTokens === 0,
  })
  if (trace.capturesContent) trace.setContent(outputContent(result))
}
