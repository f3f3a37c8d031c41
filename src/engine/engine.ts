/** The local engine: requests in, token events out. The step loop is schedule, run, deliver. */
import { createHash, randomInt } from 'node:crypto'
import type { ChatTemplate } from './chat-template.ts'
import { acceptDrafts, Choice } from './choice.ts'
import type { ChoiceEnd } from './choice.ts'
import { EventBus } from './event-bus.ts'
import type { EngineSubscriber } from './events.ts'
import type { BlockHash } from './prefix-cache.ts'
import { RequestStream } from './request-stream.ts'
import { EngineError } from './request.ts'
import type { Engine, EngineStats, GenerationEvent, GenerationRequest, PromptInput } from './request.ts'
import { RunnerError } from './runner/runner.ts'
import type { ModelInfo, Runner, StepResult } from './runner/runner.ts'
import { SamplingState } from './sampling.ts'
import { Scheduler } from './scheduler.ts'
import type { Schedule, ScheduledSequence, ScheduledStep } from './scheduler.ts'
import { Sequence } from './sequence.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Drafts of a sequence in one step; the runner sizes its sample rows for as many. */
const MAX_DRAFT_TOKENS = 8

export interface EngineOptions {
  readonly modelName: string
  readonly maxNumSeqs: number
  readonly prefixCaching: boolean
  /** Steps planned before the last one's tokens are known, where every running sequence is eligible. */
  readonly runAhead: 0 | 1
  /** Draft tokens by prompt lookup. */
  readonly speculation: boolean
  /** Sequences (prompts times n) that may wait. */
  readonly maxQueuedRequests: number
  /** Prompt tokens that may wait; one prompt may always. */
  readonly maxQueuedTokens: number
  /** Told of what must not stop the loop: a subscriber that throws, a failed step. */
  readonly onError?: (where: string, error: unknown) => void
}

export interface EngineParts {
  /** Loaded. Closed with the engine. */
  readonly runner: Runner
  readonly modelInfo: ModelInfo
  readonly tokenizer: Tokenizer
  /** null: the model has none, messages are refused. */
  readonly chatTemplate: ChatTemplate | null
  readonly options: EngineOptions
}

/** Starts an engine, with its step loop in the caller's async context: call it at boot, outside of any request. */
export function createEngine(parts: EngineParts): Engine {
  const engine = new LocalEngine(parts)
  engine.start()
  return engine
}

/** A request with open choices. */
interface ActiveRequest {
  readonly request: GenerationRequest
  readonly stream: RequestStream
  readonly openChoices: Set<Choice>
  /** Removes the abort listener and the deadline timer. */
  release(): void
}

interface StepInFlight {
  readonly step: ScheduledStep
  readonly result: Promise<StepResult>
  readonly submittedMs: number
}

class LocalEngine implements Engine {
  readonly modelName: string
  readonly modelInfo: ModelInfo
  readonly maxModelLen: number
  readonly tokenizerName: string
  readonly #parts: EngineParts
  readonly #options: EngineOptions
  readonly #scheduler: Scheduler
  readonly #bus: EventBus
  readonly #choices = new Map<Sequence, { readonly choice: Choice; readonly active: ActiveRequest }>()
  readonly #active = new Set<ActiveRequest>()
  readonly #inFlight: StepInFlight[] = []
  readonly #idleListeners: (() => void)[] = []
  readonly #stats = {
    prefixCacheQueries: 0,
    prefixCacheHits: 0,
    numPreemptions: 0,
    promptTokens: 0,
    generationTokens: 0,
    numDraftTokens: 0,
    numAcceptedTokens: 0,
  }
  #state: 'running' | 'draining' | 'closed' = 'running'
  #numArrived = 0
  #lastDeliveredMs = 0
  /** Something changed since the loop last looked; `#wake` ends its sleep. */
  #isSignalled = false
  #wake: () => void = () => {}
  #loop: Promise<void> = Promise.resolve()

  constructor(parts: EngineParts) {
    const { modelInfo, options } = parts
    this.#parts = parts
    this.#options = options
    this.modelName = options.modelName
    this.modelInfo = modelInfo
    // One sequence alone must always be able to finish, or it would be preempted for ever.
    this.maxModelLen = Math.min(modelInfo.maxModelLen, modelInfo.numKvBlocks * modelInfo.blockSize)
    this.tokenizerName = parts.tokenizer.name
    this.#bus = new EventBus((subscriber, error) => options.onError?.(`subscriber ${subscriber}`, error))
    this.#scheduler = new Scheduler({
      blockSize: modelInfo.blockSize,
      numBlocks: modelInfo.numKvBlocks,
      maxNumSeqs: options.maxNumSeqs,
      maxNumBatchedTokens: modelInfo.maxNumBatchedTokens,
      maxSampleRows: options.maxNumSeqs * (1 + MAX_DRAFT_TOKENS),
      hash: hashBlock,
    })
  }

  encode(prompt: PromptInput, options: { readonly addSpecialTokens?: boolean } = {}): readonly number[] {
    if ('ids' in prompt) return prompt.ids
    if ('text' in prompt) return this.#parts.tokenizer.encode(prompt.text, options)
    const { chatTemplate, tokenizer } = this.#parts
    if (chatTemplate === null) {
      throw new EngineError(
        'invalid_request',
        'messages: this model has no chat template; use /v1/completions',
        'messages',
      )
    }
    const text = chatTemplate.render(prompt.messages, { continueFinalMessage: prompt.continueFinalMessage === true })
    return tokenizer.encode(text, { addSpecialTokens: false })
  }

  decode(ids: readonly number[], options: { readonly skipSpecialTokens?: boolean } = {}): string {
    return this.#parts.tokenizer.decode(ids, options)
  }

  submit(request: GenerationRequest, signal: AbortSignal): AsyncIterableIterator<GenerationEvent> {
    const onAbort = () => this.#abort(active)
    let deadline: NodeJS.Timeout | undefined
    const stream = new RequestStream(() => {
      signal.addEventListener('abort', onAbort, { once: true })
      try {
        this.#admit(active)
      } catch (error) {
        active.release()
        stream.end(error)
        return
      }
      if (request.deadlineMs !== null) {
        const fail = () =>
          this.#fail(active, new EngineError('deadline', 'the request took longer than its time limit'))
        deadline = setTimeout(fail, Math.max(0, request.deadlineMs - performance.now()))
      }
      if (signal.aborted) this.#abort(active)
    }, onAbort)
    const active: ActiveRequest = {
      request,
      stream,
      openChoices: new Set(),
      release: () => {
        clearTimeout(deadline)
        signal.removeEventListener('abort', onAbort)
      },
    }
    return stream
  }

  subscribe(subscriber: EngineSubscriber): () => void {
    return this.#bus.subscribe(subscriber)
  }

  stats(): EngineStats {
    const { running, waiting, numWaitingTokens, pool } = this.#scheduler
    return {
      numRunning: running.length,
      numWaiting: waiting.length,
      numWaitingTokens,
      numBlocks: pool.numBlocks,
      numFreeBlocks: pool.numFree,
      ...this.#stats,
    }
  }

  async drain(timeoutMs: number): Promise<void> {
    if (this.#state === 'running') this.#state = 'draining'
    if (this.#active.size === 0) return
    let timer: NodeJS.Timeout | undefined
    const bound = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)))
    await Promise.race([bound, new Promise<void>((resolve) => this.#idleListeners.push(resolve))])
    clearTimeout(timer)
    this.#failAll(new EngineError('shutdown', 'the server is shutting down'))
  }

  async close(): Promise<void> {
    if (this.#state === 'closed') return this.#loop
    this.#state = 'closed'
    this.#failAll(new EngineError('shutdown', 'the server is shutting down'))
    this.#signal()
    await this.#parts.runner.close()
    await this.#loop
  }

  /** Starts the step loop. */
  start(): void {
    this.#loop = this.#run()
  }

  async #run(): Promise<void> {
    while (!this.#isClosed()) {
      this.#isSignalled = false
      const isIdle = !(await this.#step())
      if (isIdle && !this.#isSignalled) await new Promise<void>((resolve) => (this.#wake = resolve))
      // A runner in this thread resolves in microtasks alone, which would keep sockets and timers from being served.
      else await new Promise<void>((resolve) => setImmediate(resolve))
    }
  }

  #signal(): void {
    this.#isSignalled = true
    this.#wake()
  }

  #isClosed(): boolean {
    return this.#state === 'closed'
  }

  /** Schedules, runs and delivers one step. False: there was nothing to do. */
  async #step(): Promise<boolean> {
    try {
      while (this.#inFlight.length <= this.#options.runAhead) {
        const step = this.#schedule()
        if (step === null) break
        this.#submitStep(step)
      }
      const oldest = this.#inFlight.shift()
      if (oldest === undefined) return false
      this.#deliver(oldest, await oldest.result)
    } catch (error) {
      await this.#failSteps(error)
    }
    return true
  }

  #submitStep(step: ScheduledStep): void {
    const result = this.#parts.runner.execute(step.plan)
    // Awaited in order, maybe after an earlier step has failed: not an unhandled rejection until then.
    result.catch(() => {})
    this.#inFlight.push({ step, result, submittedMs: performance.now() })
  }

  #schedule(): ScheduledStep | null {
    const schedule = this.#scheduler.schedule()
    this.#publishSchedule(schedule, performance.now())
    return schedule.step
  }

  #publishSchedule(schedule: Schedule, atMs: number): void {
    for (const { sequence, numComputedTokens } of schedule.preempted) {
      const { requestId, choice } = sequence
      sequence.waitingSinceMs = atMs
      this.#stats.numPreemptions++
      this.#bus.publish({ type: 'preempted', requestId, choice, atMs, numComputedTokens })
    }
    for (const { sequence, kind, match } of schedule.step?.admitted ?? []) {
      const { requestId, choice, counters } = sequence
      const numMissTokens = sequence.tokens.length - match.numTokens
      if (kind === 'first') {
        counters.firstScheduledMs = atMs
        counters.numCachedTokens = match.numTokens
        counters.numMissTokens = numMissTokens
        counters.missReason = match.missReason
        this.#stats.prefixCacheQueries += sequence.numPromptTokens
        this.#stats.prefixCacheHits += match.numTokens
      }
      const waitUs = Math.round((atMs - sequence.waitingSinceMs) * 1000)
      const { numTokens: numCachedTokens, missReason } = match
      this.#bus.publish({
        type: 'scheduled',
        requestId,
        choice,
        atMs,
        kind,
        waitUs,
        numCachedTokens,
        numMissTokens,
        missReason,
      })
    }
  }

  #deliver(inFlight: StepInFlight, result: StepResult): void {
    const { step } = inFlight
    const atMs = performance.now()
    const startMs = Math.max(inFlight.submittedMs, this.#lastDeliveredMs)
    this.#lastDeliveredMs = atMs
    for (const [i, entry] of step.sequences.entries()) {
      const owner = this.#choices.get(entry.sequence)
      const output = result.sequences[i]
      // Ended while the step ran: its tokens are overshoot and appear nowhere.
      if (owner === undefined || output === undefined) continue
      const tokens = acceptDrafts(entry.drafts, output.tokens)
      this.#scheduler.settle(entry, tokens.length)
      if (entry.isPrefill) this.#countChunk(entry, step, result, atMs)
      const { choice, active } = owner
      if (output.scores.length > 0) choice.score(entry.startPosition + 1, output.scores)
      const isPromptDone = entry.isPrefill && entry.startPosition + entry.numTokens >= entry.sequence.numPromptTokens
      if (isPromptDone && choice.promptEntries !== null) {
        active.stream.push({ type: 'promptLogprobs', promptIndex: choice.promptIndex, entries: choice.promptEntries })
      }
      if (entry.numSampleRows === 0) {
        if (isPromptDone && entry.sequence.maxOutputTokens === 0)
          this.#finish(choice, active, { reason: 'length', stopReason: null })
        continue
      }
      this.#countTokens(entry, tokens.length)
      const delivery = choice.accept(tokens, output.logprobs)
      this.#countStep(entry, step, result, delivery.numTokens, startMs, atMs)
      if (delivery.event !== null) active.stream.push(delivery.event)
      if (delivery.end === null) this.#scheduler.publish(entry.sequence)
      else this.#finish(choice, active, delivery.end)
    }
    this.#publishStep(step, result, startMs, atMs)
  }

  #countChunk(entry: ScheduledSequence, step: ScheduledStep, result: StepResult, atMs: number): void {
    const { requestId, choice, counters } = entry.sequence
    counters.prefillChunks++
    if (result.gpuMicros !== null) {
      counters.prefillGpuMicros = (counters.prefillGpuMicros ?? 0) + result.gpuMicros
      const share = (result.gpuMicros * entry.numTokens) / step.numRows
      counters.prefillGpuShareMicros = (counters.prefillGpuShareMicros ?? 0) + share
    }
    const { stepId } = step.plan
    this.#bus.publish({ type: 'prefillChunk', requestId, choice, atMs, stepId, numTokens: entry.numTokens })
  }

  #countTokens(entry: ScheduledSequence, numAccepted: number): void {
    const { counters } = entry.sequence
    counters.numDraftTokens += entry.drafts.length
    counters.numAcceptedTokens += numAccepted - 1
    this.#stats.numDraftTokens += entry.drafts.length
    this.#stats.numAcceptedTokens += numAccepted - 1
  }

  /** The step that draws the first token is prefill; one whose only token is the end token does not count, as that token does not. */
  #countStep(
    entry: ScheduledSequence,
    step: ScheduledStep,
    result: StepResult,
    numTokens: number,
    startMs: number,
    atMs: number,
  ): void {
    const { requestId, choice, counters } = entry.sequence
    counters.numGeneratedTokens += numTokens
    this.#stats.generationTokens += numTokens
    if (counters.firstTokenMs === null) {
      counters.firstTokenMs = atMs
      counters.lastTokenMs = atMs
      this.#stats.promptTokens += entry.sequence.numPromptTokens
      this.#bus.publish({ type: 'firstToken', requestId, choice, atMs, stepId: step.plan.stepId })
      return
    }
    if (numTokens === 0) return
    counters.lastTokenMs = atMs
    counters.decodeSteps++
    counters.decodeStepMicros.push(Math.round((atMs - startMs) * 1000))
    counters.decodeRowSum += step.numRows
    if (result.gpuMicros === null) return
    counters.decodeGpuMicros = (counters.decodeGpuMicros ?? 0) + result.gpuMicros
    const share = (result.gpuMicros * entry.numTokens) / step.numRows
    counters.decodeGpuShareMicros = (counters.decodeGpuShareMicros ?? 0) + share
  }

  #publishStep(step: ScheduledStep, result: StepResult, startMs: number, atMs: number): void {
    const { running, waiting, pool } = this.#scheduler
    this.#bus.publish({
      type: 'step',
      stepId: step.plan.stepId,
      startMs,
      atMs,
      numRows: step.numRows,
      numPrefillTokens: step.numPrefillTokens,
      numDecodeTokens: step.numDecodeTokens,
      numRunning: running.length,
      numWaiting: waiting.length,
      numFreeBlocks: pool.numFree,
      numBlocks: pool.numBlocks,
      gpuMicros: result.gpuMicros,
      kernels: result.kernels,
      requestIds: [...new Set(step.sequences.map((entry) => entry.sequence.requestId))],
    })
  }

  /** A step failed: the pool's content is lost and every running sequence with it. Waiting ones go on, unless the engine itself is at fault. */
  async #failSteps(error: unknown): Promise<void> {
    if (!this.#isClosed()) this.#options.onError?.('step', error)
    const others = this.#inFlight.splice(0)
    await settled(others.map(({ result }) => result))
    const isRunnerFault = error instanceof RunnerError
    const code = isRunnerFault && error.code === 'device_lost' ? 'device_lost' : 'engine_error'
    const message =
      code === 'device_lost'
        ? 'the device was lost while the request ran; it may be sent again'
        : 'the engine failed while the request ran'
    const failed = new EngineError(code, message, null, { cause: error })
    const running = [...this.#scheduler.running]
    this.#scheduler.invalidate()
    for (const sequence of running) {
      const owner = this.#choices.get(sequence)
      if (owner !== undefined) this.#fail(owner.active, failed)
    }
    if (!isRunnerFault) this.#failAll(failed)
  }

  #admit(active: ActiveRequest): void {
    const { request, stream, openChoices } = active
    if (this.#state !== 'running')
      throw new EngineError('draining', 'the server is shutting down and takes no new requests')
    const prompts = request.prompts.map((prompt) => this.#promptTokens(prompt, request))
    this.#checkQueue(prompts.length * request.n, prompts.reduce((sum, tokens) => sum + tokens.length, 0) * request.n)
    const sequences = prompts.flatMap((tokens, promptIndex) =>
      Array.from({ length: request.n }, (_, i) => this.#createSequence(request, tokens, promptIndex, i)),
    )
    for (const [promptIndex, tokenIds] of prompts.entries()) {
      stream.push({ type: 'prompt', promptIndex, tokenIds, numTokens: tokenIds.length })
    }
    this.#active.add(active)
    for (const sequence of sequences) {
      const { tokenizer } = this.#parts
      const choice = new Choice({ sequence, request, tokenizer, eosTokenIds: this.modelInfo.eosTokenIds })
      openChoices.add(choice)
      this.#choices.set(sequence, { choice, active })
      this.#scheduler.add(sequence)
      const { requestId, numPromptTokens, counters } = sequence
      this.#bus.publish({
        type: 'queued',
        requestId,
        choice: sequence.choice,
        atMs: counters.arrivedMs,
        numPromptTokens,
      })
    }
    this.#signal()
  }

  #promptTokens(prompt: PromptInput, request: GenerationRequest): readonly number[] {
    const encoded = this.encode(prompt)
    const { bosTokenId, vocabSize } = this.modelInfo
    const tokens = encoded.length === 0 && bosTokenId !== null ? [bosTokenId] : encoded
    const param = 'messages' in prompt ? 'messages' : 'prompt'
    if (tokens.length === 0)
      throw new EngineError('invalid_request', `${param}: expected at least one token, found none`, param)
    const unknown = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize)
    if (unknown !== undefined) {
      throw new EngineError(
        'invalid_request',
        `${param}: expected token ids 0..${vocabSize - 1}, found ${unknown}`,
        param,
      )
    }
    const room = this.maxModelLen - Math.min(1, request.maxTokens)
    if (tokens.length > room) {
      const message = `${param}: this model's maximum context length is ${this.maxModelLen} tokens; the prompt has ${tokens.length}, which leaves no room for an answer`
      throw new EngineError('context_length_exceeded', message, param)
    }
    return tokens
  }

  #checkQueue(numSequences: number, numTokens: number): void {
    const { maxQueuedRequests, maxQueuedTokens } = this.#options
    const { waiting, numWaitingTokens } = this.#scheduler
    if (waiting.length + numSequences > maxQueuedRequests) {
      throw new EngineError(
        'queue_full',
        `${waiting.length} of at most ${maxQueuedRequests} sequences wait already; try again later`,
      )
    }
    if (numWaitingTokens > 0 && numWaitingTokens + numTokens > maxQueuedTokens) {
      throw new EngineError(
        'queue_full',
        `${numWaitingTokens} of at most ${maxQueuedTokens} prompt tokens wait already; try again later`,
      )
    }
  }

  #createSequence(
    request: GenerationRequest,
    promptTokens: readonly number[],
    promptIndex: number,
    choice: number,
  ): Sequence {
    const seed = request.sampling.seed ?? randomInt(2 ** 32)
    return new Sequence({
      requestId: request.requestId,
      choice: promptIndex * request.n + choice,
      arrival: this.#numArrived++,
      priority: request.priority,
      promptTokens,
      maxOutputTokens: Math.min(request.maxTokens, this.maxModelLen - promptTokens.length),
      sampling: new SamplingState(
        {
          params: request.sampling,
          seed: seed >>> 0,
          choice,
          minTokens: request.minTokens,
          endTokenIds: [...(request.ignoreEos ? [] : this.modelInfo.eosTokenIds), ...request.stopTokenIds],
          logprobs: request.logprobs,
          vocabSize: this.modelInfo.vocabSize,
        },
        promptTokens,
      ),
      promptLogprobs: choice === 0 ? request.promptLogprobs : -1,
      cacheRoot: this.#options.prefixCaching ? this.#scheduler.cache.root(request.cacheSalt) : null,
      hasGrammar: request.structured !== null,
      arrivedMs: performance.now(),
    })
  }

  #finish(choice: Choice, active: ActiveRequest, end: ChoiceEnd, errorCode: string | null = null): void {
    const { sequence } = choice
    this.#scheduler.finish(sequence)
    this.#choices.delete(sequence)
    active.openChoices.delete(choice)
    const { requestId, counters } = sequence
    const atMs = performance.now()
    this.#bus.publish({
      type: 'finished',
      requestId,
      choice: sequence.choice,
      atMs,
      reason: end.reason,
      counters,
      errorCode,
    })
    if (errorCode === null) active.stream.push({ type: 'finished', choice: sequence.choice, ...end, counters })
    if (active.openChoices.size === 0) this.#end(active, null)
  }

  /** The client went away. */
  #abort(active: ActiveRequest): void {
    for (const choice of active.openChoices) this.#finish(choice, active, { reason: 'abort', stopReason: null })
    this.#end(active, null)
  }

  /** The request cannot go on: its choices end, the consumer gets the error. */
  #fail(active: ActiveRequest, error: EngineError): void {
    const isFault = error.code === 'engine_error' || error.code === 'device_lost'
    active.stream.end(error)
    for (const choice of active.openChoices) {
      this.#finish(choice, active, { reason: isFault ? 'error' : 'abort', stopReason: null }, error.code)
    }
  }

  #failAll(error: EngineError): void {
    for (const active of this.#active) this.#fail(active, error)
  }

  #end(active: ActiveRequest, error: EngineError | null): void {
    active.release()
    active.stream.end(error)
    this.#active.delete(active)
    if (this.#active.size === 0) for (const listener of this.#idleListeners.splice(0)) listener()
    // What ended may have made room for what waits.
    this.#signal()
  }
}

/** Chained block hash. The parent's length comes first, so that no salt a caller chooses can stand for a parent and its tokens. */
function hashBlock(parent: BlockHash, tokens: Int32Array): BlockHash {
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)
  return createHash('sha256').update(`${parent.length}:${parent}`).update(bytes).digest('base64url')
}

/** When all of them have ended, however. */
async function settled(promises: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(promises)
}
