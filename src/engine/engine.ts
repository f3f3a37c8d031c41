/** The local engine: requests in, token events out. The step loop is schedule, run, deliver. */
import { createHash } from 'node:crypto'
import { checkPrompt, checkQueue, checkRequest, checkSize, createSequences } from './admission.ts'
import type { ChatTemplate } from './chat-template.ts'
import { acceptDrafts, Choice } from './choice.ts'
import type { ChoiceEnd } from './choice.ts'
import { EventBus } from './event-bus.ts'
import type { EngineSubscriber } from './events.ts'
import { createGrammarCompiler } from './grammar.ts'
import type { GrammarCompiler, GrammarMatcher } from './grammar.ts'
import type { KvTiers } from './kv-tiers.ts'
import { KvTransfer } from './kv-transfer.ts'
import type { BlockHash } from './prefix-cache.ts'
import { RequestStream } from './request-stream.ts'
import { EngineError } from './request.ts'
import type { Engine, EngineStats, GenerationRequest, GenerationStream, PromptInput } from './request.ts'
import { MAX_DRAFT_TOKENS, RunnerError } from './runner/runner.ts'
import type { ModelInfo, Runner, StepResult } from './runner/runner.ts'
import { Scheduler } from './scheduler.ts'
import type { Schedule, ScheduledSequence, ScheduledStep } from './scheduler.ts'
import type { Sequence } from './sequence.ts'
import { countChunk, countDecodeStep, stepEvent } from './step-accounting.ts'
import type { FinishedStep } from './step-accounting.ts'
import type { Tokenizer } from './tokenizer.ts'

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
  /** Prompt tokens that may wait; a request of one prompt may always, when nothing else waits. */
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
  /** Opened with the same fingerprint and block size; closed with the engine. Absent or null: blocks live in the pool only. */
  readonly kvTiers?: KvTiers | null
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
  isEnded: boolean
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
  readonly #kv: KvTransfer | null
  readonly #grammars: GrammarCompiler
  readonly #choices = new Map<Sequence, { readonly choice: Choice; readonly active: ActiveRequest }>()
  readonly #active = new Set<ActiveRequest>()
  readonly #inFlight: StepInFlight[] = []
  /** Masks of tokens allowed next, being computed since the last delivery. */
  #masks: Promise<void>[] = []
  readonly #idleListeners: (() => void)[] = []
  /** Places in the queue of requests whose grammars are being compiled. */
  readonly #reserved = { numSequences: 0, numTokens: 0 }
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
    const { modelInfo, options, tokenizer, runner, kvTiers } = parts
    const { blockSize, blockBytes, vocabSize, eosTokenIds } = modelInfo
    this.#parts = parts
    this.#options = options
    this.modelName = options.modelName
    this.modelInfo = modelInfo
    // One sequence alone must always be able to finish, or it would be preempted for ever.
    this.maxModelLen = Math.min(modelInfo.maxModelLen, modelInfo.numKvBlocks * blockSize)
    this.tokenizerName = tokenizer.name
    const onError = (where: string, error: unknown) => options.onError?.(where, error)
    this.#bus = new EventBus((subscriber, error) => onError(`subscriber ${subscriber}`, error))
    this.#grammars = createGrammarCompiler({ tokenizer, vocabSize, eosTokenIds })
    this.#scheduler = new Scheduler({
      blockSize,
      numBlocks: modelInfo.numKvBlocks,
      maxNumSeqs: options.maxNumSeqs,
      maxNumBatchedTokens: modelInfo.maxNumBatchedTokens,
      maxSampleRows: options.maxNumSeqs * (1 + MAX_DRAFT_TOKENS),
      hash: hashBlock,
      prefetch: (sequence, match) => this.#kv?.prefetch(this.#scheduler, sequence, match) ?? false,
    })
    this.#kv =
      kvTiers === null || kvTiers === undefined
        ? null
        : new KvTransfer({
            tiers: kvTiers,
            runner,
            bus: this.#bus,
            blockSize,
            blockBytes,
            onError,
            onLoaded: () => this.#signal(),
          })
  }

  encode(prompt: PromptInput, options: { readonly addSpecialTokens?: boolean } = {}): readonly number[] {
    if ('ids' in prompt) return prompt.ids
    if ('text' in prompt) return this.#encode(prompt.text, 'prompt', options)
    const { chatTemplate, tokenizer } = this.#parts
    if (chatTemplate === null) {
      throw new EngineError(
        'invalid_request',
        'messages: this model has no chat template; use /v1/completions',
        'messages',
      )
    }
    const { messages, tools = [] } = prompt
    this.#checkBytes(countBytes(messages) + countBytes(tools), 'messages')
    // What people write is data: only the template may begin and end turns.
    const escape = (text: string) => tokenizer.escapeSpecialTokens(text)
    const text = chatTemplate.render(mapStrings(messages, escape), {
      tools: mapStrings(tools, escape),
      continueFinalMessage: prompt.continueFinalMessage === true,
    })
    return this.#encode(text, 'messages', { addSpecialTokens: false })
  }

  #encode(text: string, param: string, options: { readonly addSpecialTokens?: boolean }): readonly number[] {
    this.#checkBytes(Buffer.byteLength(text), param)
    return this.#parts.tokenizer.encode(text, options)
  }

  /** Tokenizing blocks the thread that serves: what cannot fit, even in the longest tokens, is refused before. */
  #checkBytes(numBytes: number, param: string): void {
    const maxBytes = this.maxModelLen * this.#parts.tokenizer.maxTokenBytes
    if (numBytes <= maxBytes) return
    const message = `${param}: this model's maximum context length is ${this.maxModelLen} tokens, at most ${maxBytes} bytes of text; found ${numBytes} bytes`
    throw new EngineError('context_length_exceeded', message, param)
  }

  decode(ids: readonly number[], options: { readonly skipSpecialTokens?: boolean } = {}): string {
    return this.#parts.tokenizer.decode(ids, options)
  }

  submit(request: GenerationRequest, signal: AbortSignal): GenerationStream {
    const onAbort = () => this.#abort(active)
    let deadline: NodeJS.Timeout | undefined
    const stream = new RequestStream(() => {
      if (request.deadlineMs !== null) {
        const fail = () =>
          this.#fail(active, new EngineError('deadline', 'the request took longer than its time limit'))
        deadline = setTimeout(fail, Math.max(0, request.deadlineMs - performance.now()))
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#admit(active).catch((error: unknown) => this.#end(active, error))
      if (signal.aborted) this.#abort(active)
    }, onAbort)
    const release = () => {
      clearTimeout(deadline)
      signal.removeEventListener('abort', onAbort)
    }
    const active: ActiveRequest = { request, stream, openChoices: new Set(), isEnded: false, release }
    return stream
  }

  subscribe(subscriber: EngineSubscriber): () => void {
    return this.#bus.subscribe(subscriber)
  }

  stats(): EngineStats {
    const { running, waiting, numWaitingTokens, pool } = this.#scheduler
    const { numBlocks, numFree: numFreeBlocks } = pool
    return {
      numRunning: running.length,
      numWaiting: waiting.length,
      numWaitingTokens,
      numBlocks,
      numFreeBlocks,
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
    if (this.#state !== 'closed') {
      this.#state = 'closed'
      this.#failAll(new EngineError('shutdown', 'the server is shutting down'))
      this.#signal()
      this.#loop = this.#shutDown(this.#loop)
    }
    await this.#loop
  }

  /** Starts the step loop. */
  start(): void {
    this.#loop = this.#run()
  }

  async #shutDown(loop: Promise<void>): Promise<void> {
    await this.#kv?.settle()
    await this.#parts.kvTiers?.close()
    await this.#parts.runner.close()
    await loop
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
      await Promise.all(this.#masks.splice(0))
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

  #schedule(): ScheduledStep | null {
    const schedule = this.#scheduler.schedule()
    this.#publishSchedule(schedule, performance.now())
    return schedule.step
  }

  #submitStep(step: ScheduledStep): void {
    const result = this.#parts.runner.execute(step.plan)
    // Awaited in order, maybe after an earlier step has failed: not an unhandled rejection until then.
    result.catch(() => {})
    this.#inFlight.push({ step, result, submittedMs: performance.now() })
  }

  #publishSchedule({ step, preempted }: Schedule, atMs: number): void {
    for (const { sequence, numComputedTokens } of preempted) {
      const { requestId, choice } = sequence
      sequence.waitingSinceMs = atMs
      this.#stats.numPreemptions++
      this.#bus.publish({ type: 'preempted', requestId, choice, atMs, numComputedTokens })
    }
    for (const { sequence, kind, match } of step?.admitted ?? []) {
      const { requestId, choice, counters } = sequence
      const { numTokens: numCachedTokens, missReason } = match
      const numMissTokens = sequence.tokens.length - numCachedTokens
      if (kind === 'first') {
        counters.firstScheduledMs = atMs
        Object.assign(counters, { numCachedTokens, numMissTokens, missReason })
        this.#stats.prefixCacheQueries += sequence.numPromptTokens
        this.#stats.prefixCacheHits += numCachedTokens
      }
      const waitUs = Math.round((atMs - sequence.waitingSinceMs) * 1000)
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

  #deliver({ step, submittedMs }: StepInFlight, result: StepResult): void {
    const atMs = performance.now()
    const finished: FinishedStep = { step, result, startMs: Math.max(submittedMs, this.#lastDeliveredMs), atMs }
    this.#lastDeliveredMs = atMs
    for (const [i, entry] of step.sequences.entries()) {
      const owner = this.#choices.get(entry.sequence)
      const output = result.sequences[i]
      // Ended while the step ran: its tokens are overshoot and appear nowhere.
      if (owner === undefined || output === undefined) continue
      try {
        this.#deliverTo(owner.choice, owner.active, entry, output, finished)
      } catch (cause) {
        this.#options.onError?.('delivery', cause)
        this.#fail(
          owner.active,
          new EngineError('engine_error', 'the engine failed while the request ran', null, { cause }),
        )
      }
    }
    this.#bus.publish(stepEvent(finished, this.#scheduler))
  }

  #deliverTo(
    choice: Choice,
    active: ActiveRequest,
    entry: ScheduledSequence,
    output: StepResult['sequences'][number],
    finished: FinishedStep,
  ): void {
    const { sequence } = entry
    const tokens = acceptDrafts(entry.drafts, output.tokens)
    this.#scheduler.settle(entry, tokens.length)
    if (output.scores.length > 0) choice.score(entry.startPosition + 1, output.scores)
    if (entry.isPrefill) this.#deliverChunk(choice, active, entry, finished)
    if (entry.numSampleRows === 0) return
    this.#countDrafts(entry, tokens.length - 1)
    const delivery = choice.accept(tokens, output.logprobs)
    this.#countTokens(entry, delivery.numTokens, finished)
    if (delivery.event !== null) active.stream.push(delivery.event)
    const { overflow } = active.stream
    if (overflow !== null) {
      this.#fail(active, overflow)
      return
    }
    if (delivery.end !== null) {
      this.#finish(choice, active, delivery.end)
      return
    }
    this.#scheduler.publish(sequence)
    if (choice.matcher !== null) this.#masks.push(setMask(sequence, choice.matcher))
    if (sequence.lookup === null) return
    const drafts = sequence.lookup.propose(sequence.tokens.view)
    sequence.wantsDrafts = drafts.length > 0
    sequence.drafts = drafts
  }

  #deliverChunk(choice: Choice, active: ActiveRequest, entry: ScheduledSequence, finished: FinishedStep): void {
    const { sequence, numTokens } = entry
    countChunk(entry, finished)
    const { stepId } = finished.step.plan
    this.#bus.publish({
      type: 'prefillChunk',
      requestId: sequence.requestId,
      choice: sequence.choice,
      atMs: finished.atMs,
      stepId,
      numTokens,
    })
    if (entry.startPosition + numTokens < sequence.numPromptTokens) return
    if (choice.promptEntries !== null) {
      active.stream.push({ type: 'promptLogprobs', promptIndex: choice.promptIndex, entries: choice.promptEntries })
    }
    if (sequence.maxOutputTokens === 0) this.#finish(choice, active, { reason: 'length', stopReason: null })
  }

  #countDrafts({ sequence, drafts }: ScheduledSequence, numAccepted: number): void {
    if (drafts.length === 0) return
    sequence.lookup?.record(drafts.length, numAccepted, sequence.tokens.length)
    sequence.counters.numDraftTokens += drafts.length
    sequence.counters.numAcceptedTokens += numAccepted
    this.#stats.numDraftTokens += drafts.length
    this.#stats.numAcceptedTokens += numAccepted
  }

  #countTokens(entry: ScheduledSequence, numTokens: number, finished: FinishedStep): void {
    const { requestId, choice, counters, numPromptTokens } = entry.sequence
    counters.numGeneratedTokens += numTokens
    this.#stats.generationTokens += numTokens
    if (counters.firstTokenMs !== null) {
      if (numTokens > 0) countDecodeStep(entry, finished)
      return
    }
    counters.firstTokenMs = finished.atMs
    counters.lastTokenMs = finished.atMs
    this.#stats.promptTokens += numPromptTokens
    this.#bus.publish({ type: 'firstToken', requestId, choice, atMs: finished.atMs, stepId: finished.step.plan.stepId })
  }

  /** A step failed: the pool's content is lost and every running sequence with it. Waiting ones go on, unless the engine itself is at fault. */
  async #failSteps(error: unknown): Promise<void> {
    if (!this.#isClosed()) this.#options.onError?.('step', error)
    await settled(this.#inFlight.splice(0).map(({ result }) => result))
    const isRunnerFault = error instanceof RunnerError
    const isLost = isRunnerFault && error.code === 'device_lost'
    const message = isLost
      ? 'the device was lost while the request ran; it may be sent again'
      : 'the engine failed while the request ran'
    const failure = new EngineError(isLost ? 'device_lost' : 'engine_error', message, null, { cause: error })
    const running = [...this.#scheduler.running]
    this.#scheduler.invalidate()
    for (const sequence of running) {
      const owner = this.#choices.get(sequence)
      if (owner !== undefined) this.#fail(owner.active, failure)
    }
    if (!isRunnerFault) this.#failAll(failure)
  }

  async #admit(active: ActiveRequest): Promise<void> {
    const { request, stream, openChoices } = active
    this.#refuseUnlessRunning()
    const { maxModelLen, modelInfo } = this
    checkRequest(request, modelInfo)
    const prompts = request.prompts.map((prompt) =>
      checkPrompt(this.encode(prompt), prompt, request, modelInfo, maxModelLen),
    )
    checkSize(request, prompts, maxModelLen)
    const { waiting, numWaitingTokens } = this.#scheduler
    const { numSequences, numTokens } = this.#reserved
    checkQueue(
      prompts,
      request.n,
      { numSequences: waiting.length + numSequences, numTokens: numWaitingTokens + numTokens },
      this.#options,
    )
    const cacheRoot = this.#options.prefixCaching ? this.#scheduler.cache.root(request.cacheSalt) : null
    const { speculation } = this.#options
    const sequences = createSequences(request, prompts, {
      modelInfo,
      maxModelLen,
      speculation,
      cacheRoot,
      arrival: this.#numArrived,
    })
    this.#numArrived += sequences.length
    // Without a grammar nothing is awaited: the choices are queued before submit's first next() returns.
    const matchers = request.structured === null ? [] : await this.#createMatchers(active, sequences)
    if (active.isEnded || this.#state !== 'running') {
      for (const matcher of matchers) matcher.close()
      if (active.isEnded) return
      this.#refuseUnlessRunning()
    }
    for (const [promptIndex, tokenIds] of prompts.entries()) {
      stream.push({ type: 'prompt', promptIndex, tokenIds, numTokens: tokenIds.length })
    }
    this.#active.add(active)
    for (const [i, sequence] of sequences.entries()) {
      const { requestId, numPromptTokens, counters } = sequence
      const { tokenizer } = this.#parts
      const choice = new Choice({
        sequence,
        request,
        tokenizer,
        eosTokenIds: modelInfo.eosTokenIds,
        matcher: matchers[i] ?? null,
      })
      openChoices.add(choice)
      this.#choices.set(sequence, { choice, active })
      this.#scheduler.add(sequence)
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

  /** A matcher a sequence, and its first mask, computed while other sequences' steps run. */
  async #createMatchers(active: ActiveRequest, sequences: readonly Sequence[]): Promise<GrammarMatcher[]> {
    const { structured } = active.request
    if (structured === null) return []
    const matchers: GrammarMatcher[] = []
    // They hold their places in the queue meanwhile.
    const numTokens = sequences.reduce((sum, sequence) => sum + sequence.numPromptTokens, 0)
    this.#reserved.numSequences += sequences.length
    this.#reserved.numTokens += numTokens
    try {
      for (const sequence of sequences) {
        const matcher = await this.#grammars.createMatcher(structured)
        matchers.push(matcher)
        await setMask(sequence, matcher)
      }
    } catch (error) {
      for (const matcher of matchers) matcher.close()
      throw error
    } finally {
      this.#reserved.numSequences -= sequences.length
      this.#reserved.numTokens -= numTokens
    }
    return matchers
  }

  #refuseUnlessRunning(): void {
    if (this.#state === 'running') return
    throw new EngineError('draining', 'the server is shutting down and takes no new requests')
  }

  #finish(choice: Choice, active: ActiveRequest, end: ChoiceEnd, errorCode: string | null = null): void {
    const { sequence } = choice
    // A failed step's blocks may hold anything.
    if (sequence.status === 'running' && end.reason !== 'error') this.#kv?.store(sequence)
    this.#scheduler.finish(sequence)
    choice.matcher?.close()
    this.#choices.delete(sequence)
    active.openChoices.delete(choice)
    const { requestId, counters } = sequence
    const { reason } = end
    this.#bus.publish({
      type: 'finished',
      requestId,
      choice: sequence.choice,
      atMs: performance.now(),
      reason,
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
    this.#end(active, error)
  }

  #failAll(error: EngineError): void {
    for (const active of this.#active) this.#fail(active, error)
  }

  #end(active: ActiveRequest, error: unknown): void {
    active.isEnded = true
    active.release()
    active.stream.end(error)
    this.#active.delete(active)
    if (this.#active.size === 0) for (const listener of this.#idleListeners.splice(0)) listener()
    // What ended may have made room for what waits.
    this.#signal()
  }
}

/** Bytes of all strings in a value. */
function countBytes(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (typeof value !== 'object' || value === null) return 0
  return Object.entries(value).reduce((sum, [key, item]) => sum + Buffer.byteLength(key) + countBytes(item), 0)
}

/** The same value with every string in it changed, keys included. */
function mapStrings<T>(value: T, map: (text: string) => string): T
function mapStrings(value: unknown, map: (text: string) => string): unknown {
  if (typeof value === 'string') return map(value)
  if (Array.isArray(value)) return value.map((item: unknown) => mapStrings(item, map))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [map(key), mapStrings(item, map)]))
}

async function setMask(sequence: Sequence, matcher: GrammarMatcher): Promise<void> {
  sequence.mask = await matcher.mask()
}

/** When all of them have ended, however. */
async function settled(promises: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(promises)
}

/** Chained block hash. The parent's length comes first, so that no salt a caller chooses can stand for a parent and its tokens. */
function hashBlock(parent: BlockHash, tokens: Int32Array): BlockHash {
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)
  return createHash('sha256').update(`${parent.length}:${parent}`).update(bytes).digest('base64url')
}
