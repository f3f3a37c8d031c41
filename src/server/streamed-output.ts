/** A generation as a stream of frames: turns engine events into server-sent events, and closes the trace when the stream ends or breaks. */
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

/** What the pipeline needs of the request around it. */
export interface ServedRequest {
  readonly trace: RequestTrace
  /** Aborted when the client goes away, and by the pipeline when a stream is closed early. */
  readonly abort: AbortController
  /** Gives the admission place back, once the engine has the request. */
  readonly admitted: () => void
  /** Charges the caller's key for tokens. */
  readonly charge: (tokens: number) => void
}

/** A request that the engine has accepted: its first event, and the others to come. */
export interface Accepted {
  /** undefined: the request ended without an event. */
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
  /** Frames to write. */
  readonly #queue: Frames[] = []
  #isPaused = false
  /** The first frame is written in part. */
  #isCut = false
  #onReadable: () => void = () => {}

  constructor(generation: AcceptedGeneration, scope: ServedRequest) {
    this.#generation = generation
    this.#scope = scope
    this.#result = new GenerationResult(generation.job)
  }

  take(): string | null {
    // The next frames are made in another turn of the event loop.
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
      // Aborted and nothing left to write: the end, not a wait for the next frame.
      if (this.#isOver) return frames === '' ? null : frames
      if (!this.#advance()) return frames
    }
  }

  /** Queues the opening frames and those of the first event. */
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

  /** Queues the frames of the next event or of the end. False if there is no event yet. */
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

  /** Writes as much of the queue as fits into a time slice. A frame that cannot be serialised is replaced by an error frame. */
  #write(slice: Slice): string {
    let frames = ''
    /** Where the current frame begins. */
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
        // The trace is closed already, so the stream breaks off.
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
    // The engine has ended the choices. Their final counts go into the trace.
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

  /** After the engine's last event. The trace closes before the end mark is written. */
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
    // If the error is not the engine's, the engine is still running.
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

  /** Reads the remaining events, for their counts. */
  #drain(): void {
    const { trace } = this.#scope
    try {
      for (;;) {
        const next = this.#generation.accepted.events.poll()
        if (next === null || next.done === true) return
        this.#result.add(next.value, trace.capturesContent)
      }
    } catch {
      // The client has gone, which is how the request ends.
    }
  }
}

/** Reports the result to the root span and the last log line, and charges the key. */
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
