/** What a request holds its answers to, and the matchers that see to it: schema, calls, thought. */
import { isReasoningClosed, isReasoningOpen, reasoningMarkers } from './reasoning/reasoning-format.ts'
import type { ReasoningFormat } from './reasoning/reasoning-format.ts'
import { ReasoningMatcher } from './reasoning/reasoning-matcher.ts'
import type { GenerationRequest, StructuredOutput } from './request.ts'
import type { GrammarCompiler, GrammarMatcher } from './structured/grammar.ts'
import type { OutputConstraint, TextConstraint } from './structured/grammar-source.ts'
import type { Tokenizer } from './tokenizer.ts'
import type { ToolCallFormat } from './tool-calls/tool-call-format.ts'
import { toolCallGrammar } from './tool-calls/tool-call-grammar.ts'

interface OutputControlParts {
  readonly grammars: GrammarCompiler
  readonly tokenizer: Tokenizer
  readonly vocabSize: number
  /** How this model writes calls; null: not known. */
  readonly toolCallFormat: ToolCallFormat | null
  /** How this model markers its thoughts; null: it has none. */
  readonly reasoningFormat: ReasoningFormat | null
}

/** What a request holds its answers to. */
export interface OutputRules {
  /** null: the answer is free. */
  readonly answer: OutputConstraint | null
  /** Tokens of a thought at most. */
  readonly thinkingBudget: number | null
}

/** A request's rules, compiled. */
export interface CompiledRules {
  readonly warnings: readonly string[]
  readonly isCached: boolean
  /** `promptEnd`: the last text of the choice's prompt. */
  createMatcher(promptEnd: string): Promise<GrammarMatcher>
}

/** Compiles the grammar of a request and creates matchers and parsers for its choices. */
export class OutputControl {
  readonly #parts: OutputControlParts

  constructor(parts: OutputControlParts) {
    this.#parts = parts
  }

  /** null: answers are free. Throws EngineError for calls that cannot be asked for. */
  rulesOf(request: GenerationRequest): OutputRules | null {
    const { reasoningFormat } = this.#parts
    const canThink = request.separatesReasoning === true && reasoningFormat !== null
    const thinkingBudget = canThink ? (request.thinkingBudget ?? null) : null
    const answer = this.#answer(request)
    return answer === null && thinkingBudget === null ? null : { answer, thinkingBudget }
  }

  #answer({ structured, toolUse, separatesReasoning }: GenerationRequest): OutputConstraint | null {
    const { toolCallFormat, tokenizer } = this.#parts
    const required = toolUse === undefined ? null : toolCallGrammar(toolCallFormat, toolUse, tokenizer)
    if (required !== null) return { kind: 'tool_calls', grammar: required }
    if (structured === null) return null
    // Who brings tools wants them called, and the form for what is no call.
    const isJson = structured.kind === 'json_object' || structured.kind === 'json_schema'
    const mayCall = toolUse !== undefined && toolCallFormat !== null && isJson
    const possible = mayCall ? toolCallGrammar(toolCallFormat, { ...toolUse, choice: 'required' }, tokenizer) : null
    const text = separatesReasoning === true ? this.#message(structured) : structured
    return possible === null ? text : { kind: 'tool_calls', grammar: possible, otherwise: text }
  }

  /** Where every part of an answer is a message of its own, so is its text. */
  #message(of: StructuredOutput): TextConstraint {
    const { reasoningFormat, tokenizer } = this.#parts
    if (reasoningFormat === null || reasoningFormat.answer === '') return of
    const specialTokens = [...reasoningMarkers(reasoningFormat, tokenizer).values()]
    return { kind: 'message', begin: reasoningFormat.answer, specialTokens, of }
  }

  /** Throws as GrammarCompiler.compile does. */
  async compile(rules: OutputRules, request: GenerationRequest, signal: AbortSignal): Promise<CompiledRules> {
    const { grammars, reasoningFormat, tokenizer, vocabSize } = this.#parts
    const tenant = request.tenant ?? request.cacheSalt
    const grammar = rules.answer === null ? null : await grammars.compile(rules.answer, tenant, signal)
    return {
      warnings: grammar?.warnings ?? [],
      isCached: grammar?.isCached ?? true,
      createMatcher: async (promptEnd) => {
        const answer = grammar === null ? null : await grammar.createMatcher()
        if (reasoningFormat === null || request.separatesReasoning !== true) {
          if (answer === null) throw new Error('an answer without rules needs no matcher')
          return answer
        }
        if (answer !== null && isReasoningClosed(reasoningFormat, promptEnd)) return answer
        const isOpen = isReasoningOpen(reasoningFormat, promptEnd)
        const budget = rules.thinkingBudget
        // An answer without a thought before it: the two may begin alike.
        const direct = grammar === null || isOpen ? null : await grammar.createMatcher()
        return new ReasoningMatcher({ format: reasoningFormat, isOpen, budget, answer, direct, tokenizer, vocabSize })
      },
    }
  }
}
