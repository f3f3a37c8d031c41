/** Admits requests: validates and encodes them, and queues their sequences. */
import type { ActiveRequest, ActiveRequests } from './active-requests.ts'
import { adapterOf, checkPrompt, checkQueue, checkRequest, checkSize, createSequences } from './admission.ts'
import type { QueueBounds } from './admission.ts'
import { Choice } from './choice.ts'
import type { EventBus } from '../event-bus.ts'
import type { GrammarMatcher } from '../structured/grammar-protocol.ts'
import type { CompiledRules, OutputControl, OutputRules } from '../output-control.ts'
import type { ReasoningFormat } from '../reasoning/reasoning-format.ts'
import { createReasoningParser } from '../reasoning/reasoning-parser.ts'
import type { TextService } from '../chat/text-service.ts'
import type { ModelInfo } from '../runner/runner.ts'
import type { Scheduler } from '../schedule/scheduler.ts'
import type { Sequence } from '../schedule/sequence.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ToolCallFormat } from '../tool-calls/tool-call-format.ts'
import { createToolCalls } from '../tool-calls/tool-calls.ts'

interface IntakeParts {
  readonly modelInfo: ModelInfo
  readonly maxModelLen: number
  readonly tokenizer: Tokenizer
  readonly texts: TextService
  readonly control: OutputControl
  readonly scheduler: Scheduler
  readonly requests: ActiveRequests
  readonly bus: EventBus
  /** How the model writes function calls; null: unknown. */
  readonly toolCallFormat: ToolCallFormat | null
  /** How the model marks its reasoning; null: unknown. */
  readonly reasoningFormat: ReasoningFormat | null
  readonly options: QueueBounds & { readonly prefixCaching: boolean; readonly speculation: boolean }
  /** @throws EngineError while the engine takes no new requests */
  readonly refuseUnlessRunning: () => void
}

/** Validates and encodes requests and queues their sequences. @throws EngineError before anything is queued */
export class Intake {
  readonly #parts: IntakeParts
  /** Queue places of requests whose grammars are being compiled. */
  readonly #reserved = { numSequences: 0, numTokens: 0 }
  #numArrived = 0

  constructor(parts: IntakeParts) {
    this.#parts = parts
  }

  /** Queues the choices of a request. @throws EngineError if it is refused */
  async admit(active: ActiveRequest): Promise<void> {
    const { request, stream } = active
    const {
      modelInfo,
      maxModelLen,
      texts,
      scheduler,
      bus,
      requests,
      options,
      refuseUnlessRunning,
      control,
      reasoningFormat,
    } = this.#parts
    refuseUnlessRunning()
    checkRequest(request, modelInfo)
    const { tenant } = request
    // Nothing is awaited for short prompts without a grammar: their choices are queued before the first next() returns.
    const encoded =
      texts.encodeNow(request.prompts) ?? (await texts.encode(request.prompts, { tenant, signal: active.ended.signal }))
    const prompts = request.prompts.map((prompt, i) =>
      checkPrompt(encoded[i] ?? [], prompt, request, modelInfo, maxModelLen),
    )
    checkSize(request, prompts, maxModelLen)
    const load = {
      numSequences: scheduler.waiting.length + this.#reserved.numSequences,
      numTokens: scheduler.numWaitingTokens + this.#reserved.numTokens,
    }
    checkQueue(prompts, request.n, load, options)
    const rules = control.rulesOf(request)
    const adapter = adapterOf(request, modelInfo)
    const sequences = createSequences(request, prompts, {
      modelInfo,
      maxModelLen,
      speculation: options.speculation,
      hasGrammar: rules !== null,
      cacheRoot: options.prefixCaching ? scheduler.cache.root(request.cacheSalt, this.#digestOf(adapter)) : null,
      adapter,
      arrival: this.#numArrived,
    })
    this.#numArrived += sequences.length
    const isSplit = request.separatesReasoning === true && reasoningFormat !== null
    const promptEnds = isSplit ? prompts.map((tokenIds) => this.#endOf(tokenIds)) : []
    const { matchers, warnings } =
      rules === null ? UNCONSTRAINED : await this.#createMatchers(rules, active, sequences, promptEnds)
    if (active.ended.signal.aborted) {
      closeAll(matchers)
      return
    }
    try {
      refuseUnlessRunning()
    } catch (error) {
      closeAll(matchers)
      throw error
    }
    for (const [promptIndex, tokenIds] of prompts.entries()) {
      stream.push({
        type: 'prompt',
        promptIndex,
        tokenIds,
        numTokens: tokenIds.length,
        ...(warnings.length === 0 ? {} : { warnings }),
      })
    }
    const { tokenizer, toolCallFormat } = this.#parts
    const { eosTokenIds } = modelInfo
    for (const [i, sequence] of sequences.entries()) {
      const { requestId, numPromptTokens, counters, choice } = sequence
      const matcher = matchers[i] ?? null
      const toolCalls = createToolCalls(request, toolCallFormat, tokenizer)
      const promptEnd = promptEnds[Math.floor(choice / request.n)]
      const reasoningParser =
        promptEnd === undefined || reasoningFormat === null
          ? null
          : createReasoningParser(reasoningFormat, promptEnd, tokenizer)
      const parts = { sequence, request, tokenizer, eosTokenIds, matcher, toolCalls, reasoningParser }
      requests.open(active, new Choice(parts))
      scheduler.add(sequence)
      bus.publish({ type: 'queued', requestId, choice, atMs: counters.arrivedMs, numPromptTokens })
    }
  }

  /** Separates an adapter's blocks from others in the prefix cache; null: no adapter. */
  #digestOf(adapter: number | undefined): Int32Array | null {
    const digest = adapter === undefined ? undefined : this.#parts.modelInfo.adapters[adapter]?.digest
    return digest === undefined ? null : new Int32Array(new Uint8Array(Buffer.from(digest, 'hex')).buffer)
  }

  /** One matcher per sequence, with its first mask, created while steps of other sequences run. */
  async #createMatchers(
    rules: OutputRules,
    active: ActiveRequest,
    sequences: readonly Sequence[],
    promptEnds: readonly string[],
  ): Promise<Control> {
    const matchers: GrammarMatcher[] = []
    // Their places in the queue are reserved meanwhile.
    const numTokens = sequences.reduce((sum, sequence) => sum + sequence.numPromptTokens, 0)
    this.#reserved.numSequences += sequences.length
    this.#reserved.numTokens += numTokens
    try {
      const compiled = await this.#compile(rules, active, sequences)
      for (const sequence of sequences) {
        const promptEnd = promptEnds[Math.floor(sequence.choice / active.request.n)] ?? ''
        const matcher = await compiled.createMatcher(promptEnd)
        matchers.push(matcher)
        sequence.mask = await matcher.mask()
      }
      return { matchers, warnings: compiled.warnings }
    } catch (error) {
      closeAll(matchers)
      throw error
    } finally {
      this.#reserved.numSequences -= sequences.length
      this.#reserved.numTokens -= numTokens
    }
  }

  /** Compiles the grammars. The time is counted separately and is not part of the wait in the queue. */
  async #compile(
    rules: OutputRules,
    { request, ended }: ActiveRequest,
    sequences: readonly Sequence[],
  ): Promise<CompiledRules> {
    const { control, bus } = this.#parts
    const startedMs = performance.now()
    let isCached = false
    let ok = false
    try {
      const compiled = await control.compile(rules, request, ended.signal)
      ;({ isCached } = compiled)
      ok = true
      return compiled
    } finally {
      const atMs = performance.now()
      for (const sequence of sequences) {
        sequence.counters.grammarMs = atMs - startedMs
        sequence.waitingSinceMs = atMs
      }
      const durationUs = Math.round((atMs - startedMs) * 1000)
      if (rules.answer !== null)
        bus.publish({ type: 'grammar', requestId: request.requestId, atMs, durationUs, isCached, ok })
    }
  }

  /** The end of a prompt as text, with special tokens. */
  #endOf(tokenIds: readonly number[]): string {
    return this.#parts.tokenizer.decode(tokenIds.slice(-PROMPT_END_TOKENS), { skipSpecialTokens: false })
  }
}

/** Enough for a marker and the line ends after it. */
const PROMPT_END_TOKENS = 32

/** The matchers of a request's sequences, and warnings about constraints that are not enforced. */
interface Control {
  readonly matchers: readonly GrammarMatcher[]
  readonly warnings: readonly string[]
}

const UNCONSTRAINED: Control = { matchers: [], warnings: [] }

function closeAll(matchers: readonly GrammarMatcher[]): void {
  for (const matcher of matchers) matcher.close()
}
