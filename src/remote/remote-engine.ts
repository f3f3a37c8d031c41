/** Implements Engine with OpenAI-compatible remote engines, so that pipeline, retrieval and traces work as with a local one. */
import { EventBus } from '../engine/event-bus.ts'
import type { EngineSubscriber, FinishReason, StopKind } from '../engine/events.ts'
import { drainingError, EngineError, invalidField, newEngineCounts, shutdownError } from '../engine/request.ts'
import type { Engine, EngineStats, GenerationRequest, GenerationStream } from '../engine/request.ts'
import { RequestStream } from '../engine/requests/request-stream.ts'
import { newCounters } from '../engine/schedule/sequence.ts'
import { DeadlinePassed, type OpenCall, type UpstreamCaller } from './caller.ts'
import { newRemoteChoice, nextToolCall } from './choice.ts'
import type { RemoteChoiceState } from './choice.ts'
import { reasonOf } from './models.ts'
import { numTokensOf, type RemoteChoice, type RemoteChunk, upstreamError } from './response-wire.ts'

/** One prompt's call to the other engine: `n` choices over one stream. */
interface Call {
  readonly promptIndex: number
  readonly choices: readonly RemoteChoiceState[]
}

interface ActiveRequest {
  readonly request: GenerationRequest
  readonly stream: RequestStream
  readonly calls: Call[]
  /** Aborts the calls; the reason says how the request ends. */
  readonly control: AbortController
}

/** Sends requests to remote engines and converts their streams to engine events. */
export class RemoteEngine implements Engine {
  readonly problem = null
  readonly modelName: string
  readonly modelInfo = null
  readonly maxModelLen: number
  readonly tokenizerName = 'remote'
  readonly tokenizer = null
  readonly #caller: UpstreamCaller
  readonly #bus: EventBus
  readonly #active = new Set<ActiveRequest>()
  readonly #idleListeners: (() => void)[] = []
  #state: 'running' | 'draining' = 'running'
  readonly #counts = newEngineCounts()

  constructor(
    modelName: string,
    maxModelLen: number,
    caller: UpstreamCaller,
    onSubscriberError: (subscriber: string, error: unknown) => void,
  ) {
    this.modelName = modelName
    this.maxModelLen = maxModelLen
    this.#caller = caller
    this.#bus = new EventBus(onSubscriberError)
  }

  async encode(): Promise<null> {
    return null
  }

  async decode(): Promise<null> {
    return null
  }

  submit(request: GenerationRequest, signal: AbortSignal): GenerationStream {
    const control = new AbortController()
    const abort = () => control.abort(new ClientGone())
    const stream = new RequestStream(() => {
      signal.addEventListener('abort', abort, { once: true })
      if (signal.aborted) abort()
      void this.#serve(active).finally(() => signal.removeEventListener('abort', abort))
    }, abort)
    const active: ActiveRequest = { request, stream, calls: [], control }
    return stream
  }

  subscribe(subscriber: EngineSubscriber): () => void {
    return this.#bus.subscribe(subscriber)
  }

  stats(): EngineStats {
    // Counts requests, not choices: the choices of one request fill no batch here and must not keep other requests out.
    const numWaiting = [...this.#active].filter(isWaiting).length
    return {
      numRunning: this.#active.size - numWaiting,
      numWaiting,
      numWaitingTokens: 0,
      numBlocks: 0,
      numFreeBlocks: 0,
      ...this.#counts,
      upstreams: this.#caller.states(),
    }
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#state = 'draining'
    if (this.#active.size === 0) return
    const timer = setTimeout(() => this.#shutDown(), timeoutMs)
    await new Promise<void>((resolve) => this.#idleListeners.push(resolve))
    clearTimeout(timer)
  }

  async close(): Promise<void> {
    this.#caller.close()
    this.#shutDown()
    await this.drain(0)
  }

  #shutDown(): void {
    for (const { control } of this.#active) control.abort(shutdownError())
  }

  /** Runs a request to its end; never rejects. */
  async #serve(active: ActiveRequest): Promise<void> {
    const { request, stream, control } = active
    this.#active.add(active)
    const deadline =
      request.deadlineMs === null
        ? undefined
        : setTimeout(() => control.abort(new DeadlinePassed()), Math.max(0, request.deadlineMs - performance.now()))
    try {
      if (this.#state === 'draining') throw drainingError()
      if (request.promptLogprobs >= 0) {
        throw invalidField('echo', 'log-probabilities of the prompt are not available from a remote engine')
      }
      for (let i = 0; i < request.prompts.length; i++) active.calls.push(this.#queue(request, i))
      // All calls are accepted before the first event, so that a refusal becomes an HTTP status and not the first frame of a stream.
      const opened = await Promise.all(
        active.calls.map(async (call) => {
          this.#scheduled(request, call)
          const prompt = request.prompts[call.promptIndex] ?? { text: '' }
          return { call, chunks: await this.#caller.open(request, prompt, control.signal) }
        }),
      )
      for (const { promptIndex } of active.calls)
        stream.push({ type: 'prompt', promptIndex, tokenIds: null, numTokens: 0 })
      await Promise.all(opened.map(({ call, chunks }) => this.#read(active, call, chunks)))
      stream.end()
    } catch (error) {
      const failure = failureOf(control.signal.aborted ? control.signal.reason : error)
      control.abort(failure)
      this.#endOpenChoices(active, failure)
      stream.end(failure instanceof ClientGone ? null : failure)
    } finally {
      clearTimeout(deadline)
      this.#active.delete(active)
      if (this.#active.size === 0) for (const listener of this.#idleListeners.splice(0)) listener()
    }
  }

  #queue(request: GenerationRequest, promptIndex: number): Call {
    const prompt = request.prompts[promptIndex]
    const numPromptTokens = prompt !== undefined && 'ids' in prompt ? prompt.ids.length : 0
    const atMs = performance.now()
    const choices = Array.from({ length: request.n }, (_, i): RemoteChoiceState => {
      const choice = promptIndex * request.n + i
      this.#bus.publish({ type: 'queued', requestId: request.requestId, choice, atMs, numPromptTokens })
      return newRemoteChoice(choice, newCounters(numPromptTokens, atMs))
    })
    return { promptIndex, choices }
  }

  #scheduled({ requestId }: GenerationRequest, call: Call): void {
    const atMs = performance.now()
    for (const { choice, counters } of call.choices) {
      counters.firstScheduledMs = atMs
      const waitUs = Math.round((atMs - counters.arrivedMs) * 1000)
      this.#bus.publish({
        type: 'scheduled',
        requestId,
        choice,
        atMs,
        kind: 'first',
        waitUs,
        numCachedTokens: 0,
        numMissTokens: counters.numPromptTokens,
        missReason: 'disabled',
      })
    }
  }

  async #read(active: ActiveRequest, call: Call, chunks: OpenCall): Promise<void> {
    let usage: RemoteChunk['usage'] = null
    for await (const chunk of chunks) {
      usage = chunk.usage ?? usage
      for (const choice of chunk.choices) this.#deliver(active, call, choice)
    }
    this.#settle(active, call, usage)
  }

  #deliver(active: ActiveRequest, call: Call, chunk: RemoteChoice): void {
    const state = call.choices[chunk.index]
    if (state === undefined)
      throw upstreamError(`the remote engine sent choice ${chunk.index} of ${call.choices.length}`)
    const { counters, choice } = state
    const atMs = performance.now()
    const numTokens = numTokensOf(chunk)
    if (numTokens > 0) {
      counters.numGeneratedTokens += numTokens
      // Pieces of text are not exactly tokens, but twice as many as requested are too many, and the memory for them must be bounded.
      if (counters.numGeneratedTokens > 2 * Math.min(active.request.maxTokens, this.maxModelLen) + 16)
        throw upstreamError('the remote engine sent more tokens than requested')
      if (counters.firstTokenMs === null) {
        counters.firstTokenMs = atMs
        counters.prefillChunks = 1
        this.#bus.publish({ type: 'firstToken', requestId: active.request.requestId, choice, atMs, stepId: 0 })
      } else {
        counters.decodeStepMicros.push(Math.round((atMs - state.lastChunkMs) * 1000))
        counters.decodeSteps++
        counters.decodeRowSum++
      }
      counters.lastTokenMs = atMs
      state.lastChunkMs = atMs
      active.stream.push({
        type: 'token',
        choice,
        text: chunk.text,
        ...(chunk.reasoning === '' ? {} : { reasoning: chunk.reasoning }),
        ...(chunk.toolCalls.length === 0
          ? {}
          : { toolCalls: chunk.toolCalls.map((delta) => nextToolCall(state, delta)) }),
        tokenIds: chunk.tokenIds,
        logprobs: chunk.logprobs,
      })
      const { overflow } = active.stream
      if (overflow !== null) throw overflow
    }
    if (chunk.finishReason !== null) {
      state.reason = reasonFrom(chunk.finishReason)
      state.stopReason = chunk.stopReason
    }
  }

  /** Finishes the choices of a call, with the counts that the remote engine has reported. */
  #settle(active: ActiveRequest, call: Call, usage: RemoteChunk['usage']): void {
    const { stream, request } = active
    if (usage !== null) {
      this.#counts.promptTokens += usage.promptTokens
      this.#counts.prefixCacheQueries += usage.promptTokens
      this.#counts.prefixCacheHits += usage.cachedTokens
      stream.push({ type: 'prompt', promptIndex: call.promptIndex, tokenIds: null, numTokens: usage.promptTokens })
      // A chunk may have several tokens; only the sum over the choices is reported.
      const counted = call.choices.reduce((sum, { counters }) => sum + counters.numGeneratedTokens, 0)
      const [first] = call.choices
      if (first !== undefined)
        first.counters.numGeneratedTokens = Math.max(
          0,
          first.counters.numGeneratedTokens + usage.completionTokens - counted,
        )
    }
    for (const state of call.choices) {
      const { counters, reason } = state
      if (usage !== null) {
        counters.numPromptTokens = usage.promptTokens
        counters.numCachedTokens = Math.min(usage.cachedTokens, usage.promptTokens)
      }
      counters.numMissTokens = counters.numPromptTokens - counters.numCachedTokens
      counters.missReason = counters.numCachedTokens > 0 ? 'none' : 'cold'
      if (request.maxTokens === 0) counters.scoredMs = performance.now()
      this.#counts.generationTokens += counters.numGeneratedTokens
      this.#finish(request, state, reason ?? 'stop', null)
      stream.push({
        type: 'finished',
        choice: state.choice,
        reason: reason ?? 'stop',
        stopReason: state.stopReason,
        counters,
      })
    }
  }

  #endOpenChoices(active: ActiveRequest, failure: EngineError | ClientGone): void {
    for (const state of active.calls.flatMap((call) => call.choices).filter((choice) => !choice.isFinished)) {
      const isFault = failure instanceof EngineError && failure.code.startsWith('upstream')
      const reason = isFault ? 'error' : 'abort'
      this.#finish(active.request, state, reason, failure instanceof EngineError ? failure : null)
      const { choice, counters } = state
      if (failure instanceof ClientGone)
        active.stream.push({ type: 'finished', choice, reason, stopReason: null, counters })
    }
  }

  #finish(request: GenerationRequest, state: RemoteChoiceState, reason: FinishReason, error: EngineError | null): void {
    state.isFinished = true
    const { choice, counters } = state
    this.#bus.publish({
      type: 'finished',
      requestId: request.requestId,
      choice,
      atMs: performance.now(),
      reason,
      stop: reason === 'stop' ? stopOf(state) : null,
      counters,
      errorCode: error?.code ?? null,
      ...(error === null ? {} : { error }),
    })
  }
}

/** Whether nothing has arrived yet. The remote engine may already be computing. */
const isWaiting = ({ calls }: ActiveRequest): boolean =>
  calls.every(({ choices }) =>
    choices.every(({ isFinished, counters }) => !isFinished && counters.firstTokenMs === null),
  )

const KNOWN_REASONS: readonly FinishReason[] = ['length', 'abort', 'content_filter']

/** Unknown reasons (tool_calls, eos, …) count as `stop`. */
const reasonFrom = (reason: string): FinishReason => KNOWN_REASONS.find((known) => known === reason) ?? 'stop'

/** Why a choice stopped, if the other engine reports it; no field reports an end token. */
function stopOf({ stopReason, callIds }: RemoteChoiceState): StopKind | null {
  if (callIds.length > 0) return 'tool_calls'
  if (stopReason === null) return null
  return typeof stopReason === 'string' ? 'stop_string' : 'stop_token'
}

/** Why calls were aborted when the client left. */
class ClientGone extends Error {
  override readonly name = 'ClientGone'
}

function failureOf(error: unknown): EngineError | ClientGone {
  if (error instanceof EngineError || error instanceof ClientGone) return error
  return upstreamError(`the remote engine cannot be reached (${reasonOf(error)})`, error)
}
