/** From a request to its sequences in the scheduler's queue. */
import type { ActiveRequest, ActiveRequests } from './active-requests.ts'
import { checkPrompt, checkQueue, checkRequest, checkSize, createSequences } from './admission.ts'
import type { QueueBounds } from './admission.ts'
import { Choice } from './choice.ts'
import type { EventBus } from '../event-bus.ts'
import { ForcedTokens } from '../structured/forced-tokens.ts'
import type { Grammar, GrammarCompiler, GrammarMatcher } from '../structured/grammar.ts'
import type { OutputConstraint } from '../structured/grammar-source.ts'
import type { PromptEncoder } from '../chat/prompt-encoder.ts'
import type { GenerationRequest } from '../request.ts'
import type { ModelInfo } from '../runner/runner.ts'
import type { Scheduler } from '../schedule/scheduler.ts'
import type { Sequence } from '../schedule/sequence.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { ToolCallFormat } from '../tool-calls/tool-call-format.ts'
import { forcedBeginning, toolCallGrammar } from '../tool-calls/tool-call-grammar.ts'
import { createToolCalls } from '../tool-calls/tool-calls.ts'

export interface IntakeParts {
  readonly modelInfo: ModelInfo
  readonly maxModelLen: number
  readonly tokenizer: Tokenizer
  readonly encoder: PromptEncoder
  readonly grammars: GrammarCompiler
  readonly scheduler: Scheduler
  readonly requests: ActiveRequests
  readonly bus: EventBus
  /** How this model writes calls; null: not known. */
  readonly toolCallFormat: ToolCallFormat | null
  readonly options: QueueBounds & { readonly prefixCaching: boolean; readonly speculation: boolean }
  /** Throws EngineError while the engine takes no new requests. */
  readonly refuseUnlessRunning: () => void
}

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
    const { modelInfo, maxModelLen, encoder, scheduler, bus, requests, options, refuseUnlessRunning } = this.#parts
    refuseUnlessRunning()
    checkRequest(request, modelInfo)
    const prompts = request.prompts.map((prompt) =>
      checkPrompt(encoder.encode(prompt), prompt, request, modelInfo, maxModelLen),
    )
    checkSize(request, prompts, maxModelLen)
    const load = {
      numSequences: scheduler.waiting.length + this.#reserved.numSequences,
      numTokens: scheduler.numWaitingTokens + this.#reserved.numTokens,
    }
    checkQueue(prompts, request.n, load, options)
    const constraint = this.#constraint(request)
    const sequences = createSequences(request, prompts, {
      modelInfo,
      maxModelLen,
      speculation: options.speculation,
      hasGrammar: constraint !== null,
      cacheRoot: options.prefixCaching ? scheduler.cache.root(request.cacheSalt) : null,
      arrival: this.#numArrived,
    })
    this.#numArrived += sequences.length
    // Without a grammar nothing is awaited: the choices are queued before submit's first next() returns.
    const { matchers, warnings } =
      constraint === null ? UNCONSTRAINED : await this.#createMatchers(constraint, active, sequences)
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
      requests.open(active, new Choice({ sequence, request, tokenizer, eosTokenIds, matcher, toolCalls }))
      scheduler.add(sequence)
      bus.publish({ type: 'queued', requestId, choice, atMs: counters.arrivedMs, numPromptTokens })
    }
  }

  /** What the answer is held to; null: nothing. Throws EngineError for calls that cannot be asked for. */
  #constraint({ structured, toolUse }: GenerationRequest): OutputConstraint | null {
    if (structured !== null || toolUse === undefined) return structured
    const grammar = toolCallGrammar(this.#parts.toolCallFormat, toolUse)
    return grammar === null ? null : { kind: 'tool_calls', grammar }
  }

  /** A matcher a sequence, and its first mask, computed while other sequences' steps run. */
  async #createMatchers(
    constraint: OutputConstraint,
    active: ActiveRequest,
    sequences: readonly Sequence[],
  ): Promise<Control> {
    const { tokenizer, toolCallFormat, modelInfo } = this.#parts
    const isCall = constraint.kind === 'tool_calls' && toolCallFormat !== null
    const forced = isCall ? tokenizer.encode(forcedBeginning(toolCallFormat), { addSpecialTokens: false }) : []
    const matchers: GrammarMatcher[] = []
    // They hold their places in the queue meanwhile.
    const numTokens = sequences.reduce((sum, sequence) => sum + sequence.numPromptTokens, 0)
    this.#reserved.numSequences += sequences.length
    this.#reserved.numTokens += numTokens
    try {
      const grammar = await this.#compile(constraint, active, sequences)
      for (const sequence of sequences) {
        const inner = await grammar.createMatcher()
        const matcher = forced.length === 0 ? inner : new ForcedTokens(forced, inner, modelInfo.vocabSize)
        matchers.push(matcher)
        sequence.mask = await matcher.mask()
      }
      return { matchers, warnings: grammar.warnings }
    } catch (error) {
      closeAll(matchers)
      throw error
    } finally {
      this.#reserved.numSequences -= sequences.length
      this.#reserved.numTokens -= numTokens
    }
  }

  /** The grammar, however long it takes: a time of its own, which the sequences did not wait in the queue. */
  async #compile(
    constraint: OutputConstraint,
    { request, ended }: ActiveRequest,
    sequences: readonly Sequence[],
  ): Promise<Grammar> {
    const { grammars, bus } = this.#parts
    const startedMs = performance.now()
    let isCached = false
    let ok = false
    try {
      const grammar = await grammars.compile(constraint, request.tenant ?? request.cacheSalt, ended.signal)
      ;({ isCached } = grammar)
      ok = true
      return grammar
    } finally {
      const atMs = performance.now()
      for (const sequence of sequences) {
        sequence.counters.grammarMs = atMs - startedMs
        sequence.waitingSinceMs = atMs
      }
      const durationUs = Math.round((atMs - startedMs) * 1000)
      bus.publish({ type: 'grammar', requestId: request.requestId, atMs, durationUs, isCached, ok })
    }
  }
}

/** What holds the sequences to what was asked, and what of that it does not. */
interface Control {
  readonly matchers: readonly GrammarMatcher[]
  readonly warnings: readonly string[]
}

const UNCONSTRAINED: Control = { matchers: [], warnings: [] }

function closeAll(matchers: readonly GrammarMatcher[]): void {
  for (const matcher of matchers) matcher.close()
}
