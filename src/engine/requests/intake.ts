/** From a request to its sequences in the scheduler's queue. */
import type { ActiveRequest, ActiveRequests } from './active-requests.ts'
import { adapterOf, checkPrompt, checkQueue, checkRequest, checkSize, createSequences } from './admission.ts'
import type { QueueBounds } from './admission.ts'
import { Choice } from './choice.ts'
import type { EventBus } from '../event-bus.ts'
import type { GrammarMatcher } from '../structured/grammar.ts'
import type { CompiledRules, OutputControl, OutputRules } from '../output-control.ts'
import type { ReasoningFormat } from '../reasoning/reasoning-format.ts'
import { createReasoningParser } from '../reasoning/reasoning-parser.ts'
import type { TextService } from '../chat/text-service.ts'
import type { ModelInfo } from '../runner/runner.ts'
import type { Scheduler } from '../schedule/scheduler.ts'
import type { Sequence } from '../schedule/sequence.ts'
import type { Tokenizer } from '../tokenizer.ts'
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
  /** How this model writes calls; null: not known. */
  readonly toolCallFormat: ToolCallFormat | null
  /** How this model marks its thoughts; null: not known. */
  readonly reasoningFormat: ReasoningFormat | null
  readonly options: QueueBounds & { readonly prefixCaching: boolean; readonly speculation: boolean }
  /** Throws EngineError while the engine takes no new requests. */
  readonly refuseUnlessRunning: () => void
}

/** Validates and encodes requests and queues their sequences. @throws EngineError before anything is queued */
export class Intake {
  readonly #parts: IntakeParts
  /** Places in the queue of requests whose grammars are being compiled. */
  readonly #reserved = { numSequences: 0, numTokens: 0 }
  #numArrived = 0

  constructor(parts: IntakeParts) {
    this.#parts = parts
  }

  /** Queues a request's choices. Throws EngineError for one that is refused. */
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
    // Of short prompts and without a grammar nothing is awaited: the choices are queued before submit's first next() returns.
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
    const isParted = request.separatesReasoning === true && reasoningFormat !== null
    const promptEnds = isParted ? prompts.map((tokenIds) => this.#endOf(tokenIds)) : []
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
      const thought =
        promptEnd === undefined || reasoningFormat === null
          ? null
          : createReasoningParser(reasoningFormat, promptEnd, tokenizer)
      requests.open(active, new Choice({ sequence, request, tokenizer, eosTokenIds, matcher, toolCalls, thought }))
      scheduler.add(sequence)
      bus.publish({ type: 'queued', requestId, choice, atMs: counters.arrivedMs, numPromptTokens })
    }
  }

  /** What tells an adapter's blocks from others'; null: the model by itself. */
  #digestOf(adapter: number | undefined): Int32Array | null {
    const digest = adapter === undefined ? undefined : this.#parts.modelInfo.adapters[adapter]?.digest
    return digest === undefined ? null : new Int32Array(new Uint8Array(Buffer.from(digest, 'hex')).buffer)
  }

  /** A matcher a sequence, and its first mask, computed while other sequences' steps run. */
  async #createMatchers(
    rules: OutputRules,
    active: ActiveRequest,
    sequences: readonly Sequence[],
    promptEnds: readonly string[],
  ): Promise<Control> {
    const matchers: GrammarMatcher[] = []
    // They hold their places in the queue meanwhile.
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

  /** The grammars, however long they take: a time of its own, which the sequences did not wait in the queue. */
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

  /** The text that a prompt ends with, special tokens included. */
  #endOf(tokenIds: readonly number[]): string {
    return this.#parts.tokenizer.decode(tokenIds.slice(-PROMPT_END_TOKENS), { skipSpecialTokens: false })
  }
}

/** Enough for a mark and the line ends behind it. */
const PROMPT_END_TOKENS = 32

/** What holds the sequences to what was asked, and what of that it does not. */
interface Control {
  readonly matchers: readonly GrammarMatcher[]
  readonly warnings: readonly string[]
}

const UNCONSTRAINED: Control = { matchers: [], warnings: [] }

function closeAll(matchers: readonly GrammarMatcher[]): void {
  for (const matcher of matchers) matcher.close()
}
