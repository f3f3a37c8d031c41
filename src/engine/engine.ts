/** The local engine: builds and connects its parts. */
import { createHash } from 'node:crypto'
import { ActiveRequests } from './requests/active-requests.ts'
import type { ActiveRequest } from './requests/active-requests.ts'
import type { ChatTemplate } from './chat/chat-template.ts'
import { Delivery } from './requests/delivery.ts'
import { EventBus } from './event-bus.ts'
import type { EngineSubscriber } from './events.ts'
import { createGrammarCompiler } from './structured/grammar-compiler.ts'
import type { GrammarCompiler } from './structured/grammar-compiler.ts'
import { Intake } from './requests/intake.ts'
import type { KvTiers } from './kv/kv-tiers.ts'
import { KvTransfer } from './kv/kv-transfer.ts'
import { MaskQueue } from './structured/mask-queue.ts'
import type { BlockHash } from './schedule/prefix-cache.ts'
import { OutputControl } from './output-control.ts'
import { reasoningFormat, reasoningMarkers } from './reasoning/reasoning-format.ts'
import type { ReasoningParserName } from './reasoning/reasoning-format.ts'
import { TextService } from './chat/text-service.ts'
import { RequestStream } from './requests/request-stream.ts'
import { drainingError, EngineError, engineFailure, newEngineCounts, shutdownError } from './request.ts'
import type {
  Engine,
  EngineStats,
  GenerationRequest,
  GenerationStream,
  PromptInput,
  TextOptions,
  TokenizerDescription,
} from './request.ts'
import { maxSampleRows } from './runner/runner.ts'
import { endedWithin } from '../promises.ts'
import type { ModelInfo, Runner, RunnerProblem } from './runner/runner.ts'
import type { Sequence } from './schedule/sequence.ts'
import { Scheduler } from './schedule/scheduler.ts'
import { StepTimes } from './schedule/step-times.ts'
import { StepLoop } from './step-loop.ts'
import type { Tokenizer } from './tokenizer/tokenizer.ts'
import { markersOf, toolCallFormat, type ToolCallParserName } from './tool-calls/tool-call-formats.ts'

export interface EngineOptions {
  readonly modelName: string
  readonly maxNumSeqs: number
  readonly prefixCaching: boolean
  /** How many steps to plan before the tokens of the last one are known. */
  readonly runAhead: 0 | 1
  /** Time limit in milliseconds for the prefill part of a step while other sequences decode; absent: no limit. */
  readonly maxPrefillMs?: number
  /** Draft tokens by prompt lookup. */
  readonly speculation: boolean
  /** Limit on waiting sequences (prompts times n). */
  readonly maxQueuedRequests: number
  /** Limit on waiting prompt tokens. A request with one prompt is admitted anyway if nothing else waits. */
  readonly maxQueuedTokens: number
  /** Format of function calls; auto or absent: the format that the chat template shows. */
  readonly toolCallParser?: ToolCallParserName
  /** Format of reasoning; auto or absent: the format that the chat template shows. */
  readonly reasoningParser?: ReasoningParserName
  /** Receives errors that must not stop the loop, of subscribers and of steps. */
  readonly onError?: (where: string, error: unknown) => void
  /** Called when no step can run, and with null when steps run again. */
  readonly onProblem?: (problem: RunnerProblem | null) => void
}

interface EngineParts {
  /** A loaded runner. The engine closes it. */
  readonly runner: Runner
  readonly modelInfo: ModelInfo
  readonly tokenizer: Tokenizer
  /** null: the model has no chat template, and messages are refused. */
  readonly chatTemplate: ChatTemplate | null
  /** Opened with the same fingerprint and block size. The engine closes them. Absent or null: blocks are kept in the pool only. */
  readonly kvTiers?: KvTiers | null
  readonly options: EngineOptions
}

/** Starts an engine. Its step loop runs in the caller's async context, so call it outside of any request. */
export function createEngine(parts: EngineParts): Engine {
  const engine = new LocalEngine(parts)
  engine.start()
  return engine
}

class LocalEngine implements Engine {
  readonly modelName: string
  readonly modelInfo: ModelInfo
  readonly maxModelLen: number
  readonly tokenizerName: string
  readonly tokenizer: TokenizerDescription
  readonly #parts: EngineParts
  readonly #texts: TextService
  readonly #scheduler: Scheduler
  readonly #bus: EventBus
  readonly #kv: KvTransfer | null
  readonly #grammars: GrammarCompiler
  readonly #requests: ActiveRequests
  readonly #intake: Intake
  readonly #steps: StepLoop
  readonly #counts = newEngineCounts()
  readonly #idleListeners: (() => void)[] = []
  #state: 'running' | 'draining' | 'closed' = 'running'
  #problem: RunnerProblem | null = null
  #closed: Promise<void> = Promise.resolve()

  constructor(parts: EngineParts) {
    const { modelInfo, tokenizer, runner, kvTiers, chatTemplate } = parts
    // A state cannot be rolled back after a rejected draft.
    const options = { ...parts.options, speculation: parts.options.speculation && modelInfo.numStateSlots === 0 }
    const { blockSize, blockBytes, vocabSize, eosTokenIds } = modelInfo
    this.#parts = parts
    this.modelName = options.modelName
    this.modelInfo = modelInfo
    // One sequence must be able to finish alone. Otherwise it would be preempted forever.
    this.maxModelLen = Math.min(modelInfo.maxModelLen, modelInfo.numKvBlocks * blockSize)
    this.tokenizerName = tokenizer.name
    this.tokenizer = {
      bosToken: tokenizer.bosToken,
      eosToken: tokenizer.eosToken,
      chatTemplate: chatTemplate?.source ?? null,
    }
    const onError = (where: string, error: unknown) => options.onError?.(where, error)
    runner.onProblem?.((problem) => {
      this.#problem = problem
      options.onProblem?.(problem)
    })
    const bus = new EventBus((subscriber, error) => onError(`subscriber ${subscriber}`, error))
    const times = new StepTimes()
    const scheduler = new Scheduler({
      blockSize,
      numBlocks: modelInfo.numKvBlocks,
      numStateSlots: modelInfo.numStateSlots,
      maxNumSeqs: options.maxNumSeqs,
      maxNumBatchedTokens: modelInfo.maxNumBatchedTokens,
      maxSampleRows: maxSampleRows(options.maxNumSeqs, options.speculation),
      hash: hashBlock,
      maxPrefillTokens: (numRows, backlog) =>
        times.maxPrefillTokens(numRows, backlog, options.maxPrefillMs ?? Infinity),
      prefetch: (sequence, match) => this.#kv?.prefetch(scheduler, sequence, match) ?? false,
    })
    this.#bus = bus
    this.#scheduler = scheduler
    this.#texts = new TextService(tokenizer, chatTemplate, this.maxModelLen)
    const template = chatTemplate?.source ?? null
    const callFormat = toolCallFormat(options.toolCallParser ?? 'auto', template)
    const thinkFormat = reasoningFormat(options.reasoningParser ?? 'auto', template)
    const specialTokens = new Map([
      ...(callFormat === null ? [] : markersOf(callFormat, tokenizer)),
      ...(thinkFormat === null ? [] : reasoningMarkers(thinkFormat, tokenizer)),
    ])
    this.#grammars = createGrammarCompiler({ tokenizer, vocabSize, eosTokenIds, specialTokens })
    const onLoaded = () => this.#steps.signal()
    this.#kv =
      kvTiers === null || kvTiers === undefined
        ? null
        : new KvTransfer({
            tiers: kvTiers,
            runner,
            bus,
            blockSize,
            blockBytes,
            poolId: () => this.#steps.poolId,
            onError,
            onLoaded,
          })
    const requests = new ActiveRequests({ scheduler, bus, kv: this.#kv, onEnd: () => this.#onRequestEnd() })
    this.#requests = requests
    const masks = new MaskQueue({
      onMask: () => this.#steps.signal(),
      onFailure: (active, cause) => {
        onError('grammar', cause)
        requests.fail(active, engineFailure(cause))
      },
    })
    this.#intake = new Intake({
      modelInfo,
      maxModelLen: this.maxModelLen,
      tokenizer,
      texts: this.#texts,
      control: new OutputControl({
        grammars: this.#grammars,
        tokenizer,
        vocabSize,
        toolCallFormat: callFormat,
        reasoningFormat: thinkFormat,
      }),
      scheduler,
      requests,
      bus,
      toolCallFormat: callFormat,
      reasoningFormat: thinkFormat,
      options,
      refuseUnlessRunning: () => this.#refuseUnlessRunning(),
    })
    const delivery = new Delivery({
      scheduler,
      requests,
      masks,
      bus,
      counts: this.#counts,
      times,
      onError,
    })
    const counts = this.#counts
    const { runAhead } = options
    this.#steps = new StepLoop({ runner, scheduler, requests, masks, delivery, bus, counts, times, runAhead, onError })
  }

  get problem(): string | null {
    return this.#problem?.reason ?? null
  }

  encode(prompts: readonly PromptInput[], options?: TextOptions): Promise<readonly (readonly number[])[]> {
    return this.#texts.encode(prompts, options)
  }

  decode(ids: readonly number[], options?: TextOptions): Promise<string> {
    return this.#texts.decode(ids, options)
  }

  submit(request: GenerationRequest, signal: AbortSignal): GenerationStream {
    const requests = this.#requests
    const onAbort = () => requests.abort(active)
    let deadline: NodeJS.Timeout | undefined
    const stream = new RequestStream(() => {
      if (request.deadlineMs !== null) {
        const fail = () =>
          requests.fail(active, new EngineError('deadline', 'the request took longer than its time limit'))
        deadline = setTimeout(fail, Math.max(0, request.deadlineMs - performance.now()))
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#intake.admit(active).then(
        () => this.#steps.signal(),
        (error: unknown) => requests.end(active, error),
      )
      if (signal.aborted) requests.abort(active)
    }, onAbort)
    const release = () => {
      clearTimeout(deadline)
      signal.removeEventListener('abort', onAbort)
    }
    const active: ActiveRequest = { request, stream, openChoices: new Set(), ended: new AbortController(), release }
    return stream
  }

  subscribe(subscriber: EngineSubscriber): () => void {
    return this.#bus.subscribe(subscriber)
  }

  stats(): EngineStats {
    const { running, waiting, numWaitingTokens, pool, states } = this.#scheduler
    const { numBlocks, numFree: numFreeBlocks } = pool
    return {
      numRunning: running.length,
      numWaiting: waiting.length,
      numWaitingTokens,
      numBlocks,
      numFreeBlocks,
      ...(states === null ? {} : { numHeldStateSlots: states.numHeld }),
      ...this.#counts,
      ...(this.modelInfo.adapters.length === 0 ? {} : { adapters: this.#adaptersOf(running, waiting) }),
      ...(this.#kv === null ? {} : { kvOperations: this.#kv.counts }),
    }
  }

  #adaptersOf(running: readonly Sequence[], waiting: readonly Sequence[]): NonNullable<EngineStats['adapters']> {
    const { adapters } = this.modelInfo
    const namesOf = (sequences: readonly Sequence[]) => {
      const used = new Set(sequences.map(({ adapter }) => adapter))
      return adapters.filter((_, index) => used.has(index)).map(({ name }) => name)
    }
    return { numServed: adapters.length, running: namesOf(running), waiting: namesOf(waiting) }
  }

  async drain(timeoutMs: number): Promise<void> {
    if (this.#state === 'running') this.#state = 'draining'
    if (this.#requests.size === 0) return
    await endedWithin(timeoutMs, new Promise<void>((resolve) => this.#idleListeners.push(resolve)))
    this.#requests.failAll(shutdownError())
  }

  async close(): Promise<void> {
    if (this.#state !== 'closed') {
      this.#state = 'closed'
      this.#requests.failAll(shutdownError())
      this.#steps.stop()
      this.#closed = this.#shutDown()
    }
    await this.#closed
  }

  /** Starts the step loop. */
  start(): void {
    this.#steps.start()
  }

  async #shutDown(): Promise<void> {
    await Promise.all([this.#grammars.close(), this.#texts.close()])
    await this.#kv?.settle()
    await this.#parts.kvTiers?.close()
    await this.#parts.runner.close()
    await this.#steps.ended
  }

  #onRequestEnd(): void {
    if (this.#requests.size === 0) for (const listener of this.#idleListeners.splice(0)) listener()
    this.#steps.signal()
  }

  #refuseUnlessRunning(): void {
    if (this.#state !== 'running') throw drainingError()
    // A problem that the first attempt to recover solves only delays requests.
    if (this.#problem?.isFatal === true) {
      throw new EngineError('device_lost', `the engine cannot run at the moment: ${this.#problem.reason}`)
    }
  }
}

/** Hash of a block and its parent. The parent's length comes first, so that no salt can imitate a parent followed by tokens. */
function hashBlock(parent: BlockHash, tokens: Int32Array): BlockHash {
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)
  return createHash('sha256').update(`${parent.length}:${parent}`).update(bytes).digest('base64url')
}
