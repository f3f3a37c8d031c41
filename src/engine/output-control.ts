/** What a request holds its answers to, and the matchers that see to it: schema, calls, thought. */
import { isOpenThought } from './reasoning/reasoning-format.ts'
import type { ReasoningFormat } from './reasoning/reasoning-format.ts'
import { ThoughtMatcher } from './reasoning/thought-matcher.ts'
import type { GenerationRequest, StructuredOutput } from './request.ts'
import { CallsOrFormat } from './structured/calls-or-format.ts'
import { ForcedTokens } from './structured/forced-tokens.ts'
import type { Grammar, GrammarCompiler, GrammarMatcher } from './structured/grammar.ts'
import type { OutputConstraint } from './structured/grammar-source.ts'
import type { Tokenizer } from './tokenizer.ts'
import type { ToolCallFormat } from './tool-calls/tool-call-format.ts'
import { forcedBeginning, toolCallGrammar } from './tool-calls/tool-call-grammar.ts'

export interface OutputControlParts {
  readonly grammars: GrammarCompiler
  readonly tokenizer: Tokenizer
  readonly vocabSize: number
  /** How this model writes calls; null: not known. */
  readonly toolCallFormat: ToolCallFormat | null
  /** How this model marks its thoughts; null: it has none. */
  readonly reasoningFormat: ReasoningFormat | null
}

/** The grammars of a request. */
export interface OutputRules {
  readonly calls: OutputConstraint | null
  readonly format: OutputConstraint | null
  /** Tokens of a thought at most. */
  readonly thinkingBudget: number | null
}

/** A request's grammars, compiled. */
export interface CompiledRules {
  readonly warnings: readonly string[]
  readonly isCached: boolean
  /** `promptEnd`: the last text of the choice's prompt. */
  createMatcher(promptEnd: string): Promise<GrammarMatcher>
}

export class OutputControl {
  readonly #parts: OutputControlParts

  constructor(parts: OutputControlParts) {
    this.#parts = parts
  }

  /** null: answers are free. Throws EngineError for calls that cannot be asked for. */
  rulesOf(request: GenerationRequest): OutputRules | null {
    const { toolCallFormat, reasoningFormat } = this.#parts
    const { structured, toolUse } = request
    const canThink = request.partsReasoning === true && reasoningFormat !== null
    const thinkingBudget = canThink ? (request.thinkingBudget ?? null) : null
    const isForced = toolUse !== undefined && toolUse.choice !== 'auto'
    const required = isForced ? toolCallGrammar(toolCallFormat, toolUse) : null
    if (required !== null) return { calls: { kind: 'tool_calls', grammar: required }, format: null, thinkingBudget }
    if (structured === null) return thinkingBudget === null ? null : { calls: null, format: null, thinkingBudget }
    // Who brings tools wants them called, and the form for what is no call.
    const isJson = structured.kind === 'json_object' || structured.kind === 'json_schema'
    const mayCall = toolUse !== undefined && toolCallFormat !== null && isJson
    const possible = mayCall ? toolCallGrammar(toolCallFormat, { ...toolUse, choice: 'required' }) : null
    if (possible === null) return { calls: null, format: structured, thinkingBudget }
    return this.#callsOrFormat(possible, structured, thinkingBudget)
  }

  #callsOrFormat(
    grammar: NonNullable<ReturnType<typeof toolCallGrammar>>,
    structured: StructuredOutput,
    thinkingBudget: number | null,
  ): OutputRules {
    if (this.#beginToken() !== null)
      return { calls: { kind: 'tool_calls', grammar }, format: structured, thinkingBudget }
    const begin = this.#parts.toolCallFormat === null ? '' : forcedBeginning(this.#parts.toolCallFormat)
    const whole = { ...grammar, before: begin + grammar.before }
    return { calls: null, format: { kind: 'tool_calls', grammar: whole, otherwise: structured }, thinkingBudget }
  }

  /** The special token that calls begin with; null: they begin with text. */
  #beginToken(): number | null {
    const { toolCallFormat, tokenizer } = this.#parts
    const [first] = toolCallFormat === null ? [] : this.#forced(toolCallFormat)
    return first !== undefined && tokenizer.isSpecial(first) ? first : null
  }

  #forced(format: ToolCallFormat): readonly number[] {
    return this.#parts.tokenizer.encode(forcedBeginning(format), { addSpecialTokens: false })
  }

  /** Throws as GrammarCompiler.compile does. */
  async compile(rules: OutputRules, request: GenerationRequest, signal: AbortSignal): Promise<CompiledRules> {
    const { grammars } = this.#parts
    const tenant = request.tenant ?? request.cacheSalt
    const calls = rules.calls === null ? null : await grammars.compile(rules.calls, tenant, signal)
    const format = rules.format === null ? null : await grammars.compile(rules.format, tenant, signal)
    const all = [calls, format].filter((grammar) => grammar !== null)
    return {
      warnings: all.flatMap(({ warnings }) => warnings),
      isCached: all.every(({ isCached }) => isCached),
      createMatcher: async (promptEnd) => {
        const answer = await this.#answerMatcher(calls, format)
        const { reasoningFormat, tokenizer, vocabSize } = this.#parts
        if (reasoningFormat === null || request.partsReasoning !== true) {
          if (answer === null) throw new Error('an answer without rules needs no matcher')
          return answer
        }
        const isOpen = isOpenThought(reasoningFormat, promptEnd)
        const budget = rules.thinkingBudget
        return new ThoughtMatcher({ format: reasoningFormat, isOpen, budget, answer, tokenizer, vocabSize })
      },
    }
  }

  async #answerMatcher(calls: Grammar | null, format: Grammar | null): Promise<GrammarMatcher | null> {
    const other = format === null ? null : await format.createMatcher()
    if (calls === null) return other
    const { toolCallFormat, vocabSize } = this.#parts
    const forced = toolCallFormat === null ? [] : this.#forced(toolCallFormat)
    const inner = await calls.createMatcher()
    const matcher = forced.length === 0 ? inner : new ForcedTokens(forced, inner, vocabSize)
    return other === null ? matcher : new CallsOrFormat(matcher, other, forced[0] ?? 0)
  }
}
