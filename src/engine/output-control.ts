/** The constraints of a request on its answers (schema, function calls, reasoning), and the matchers that enforce them. */
import { isReasoningClosed, isReasoningOpen, reasoningMarkers } from './reasoning/reasoning-format.ts'
import type { ReasoningFormat } from './reasoning/reasoning-format.ts'
import { ReasoningMatcher } from './reasoning/reasoning-matcher.ts'
import type { GenerationRequest, StructuredOutput } from './request.ts'
import type { GrammarCompiler } from './structured/grammar-compiler.ts'
import type { GrammarMatcher } from './structured/grammar-protocol.ts'
import type { OutputConstraint, TextConstraint } from './structured/grammar-source.ts'
import type { Tokenizer } from './tokenizer/tokenizer.ts'
import type { ToolCallFormat } from './tool-calls/tool-call-format.ts'
import { toolCallGrammar } from './tool-calls/tool-call-grammar.ts'

interface OutputControlParts {
  readonly grammars: GrammarCompiler
  readonly tokenizer: Tokenizer
  readonly vocabSize: number
  /** How the model writes function calls; null: unknown. */
  readonly toolCallFormat: ToolCallFormat | null
  /** How the model marks its reasoning; null: unknown. */
  readonly reasoningFormat: ReasoningFormat | null
}

/** The constraints of a request on its answers. */
export interface OutputRules {
  /** null: the answer is free. */
  readonly answer: OutputConstraint | null
  /** Limit on reasoning tokens; null: no limit. */
  readonly thinkingBudget: number | null
}

/** A request's rules, compiled. */
export interface CompiledRules {
  readonly warnings: readonly string[]
  readonly isCached: boolean
  /** @param promptEnd the end of the choice's prompt, as text */
  createMatcher(promptEnd: string): Promise<GrammarMatcher>
}

/** Compiles the constraints of a request and creates matchers for its choices. */
export class OutputControl {
  readonly #parts: OutputControlParts

  constructor(parts: OutputControlParts) {
    this.#parts = parts
  }

  /** The constraints of a request; null: answers are free. @throws EngineError for required calls in an unknown format */
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
    // A request with tools and a schema wants calls, and the schema for an answer that is not a call.
    const isJson = structured.kind === 'json_object' || structured.kind === 'json_schema'
    const mayCall = toolUse !== undefined && toolCallFormat !== null && isJson
    const possible = mayCall ? toolCallGrammar(toolCallFormat, { ...toolUse, choice: 'required' }, tokenizer) : null
    const text = separatesReasoning === true ? this.#message(structured) : structured
    return possible === null ? text : { kind: 'tool_calls', grammar: possible, otherwise: text }
  }

  /** In formats where every part of an answer is a message, the text is one too. */
  #message(of: StructuredOutput): TextConstraint {
    const { reasoningFormat, tokenizer } = this.#parts
    if (reasoningFormat === null || reasoningFormat.answer === '') return of
    const specialTokens = [...reasoningMarkers(reasoningFormat, tokenizer).values()]
    return { kind: 'message', begin: reasoningFormat.answer, specialTokens, of }
  }

  /** @throws as GrammarCompiler.compile */
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
          if (answer === null) throw new Error('an unconstrained answer needs no matcher')
          return answer
        }
        if (answer !== null && isReasoningClosed(reasoningFormat, promptEnd)) return answer
        const isOpen = isReasoningOpen(reasoningFormat, promptEnd)
        const budget = rules.thinkingBudget
        // Reasoning and an answer without reasoning may begin with the same tokens.
        const direct = grammar === null || isOpen ? null : await grammar.createMatcher()
        return new ReasoningMatcher({ format: reasoningFormat, isOpen, budget, answer, direct, tokenizer, vocabSize })
      },
    }
  }
}
