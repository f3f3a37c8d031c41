/** One choice being generated: turns tokens into events with text, and decides when the choice ends. */
import type { FinishReason, StopKind } from '../events.ts'
import type { GrammarMatcher } from '../structured/grammar-protocol.ts'
import type { ReasoningParser } from '../reasoning/reasoning-format.ts'
import type { ChoiceLogprob, GenerationRequest, TokenEvent, ToolCallDelta } from '../request.ts'
import type { TokenLogprobs } from '../runner/runner.ts'
import type { Sequence } from '../schedule/sequence.ts'
import { IncrementalDetokenizer, StopMatcher } from './stops.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ToolCalls } from '../tool-calls/tool-calls.ts'

export interface ChoiceEnd {
  readonly reason: FinishReason
  /** The stop string or stop token id that ended it. */
  readonly stopReason: string | number | null
  /** null: it ended for another reason than a stop. */
  readonly stop: StopKind | null
}

/** What the tokens of a step yielded. */
interface AcceptedTokens {
  /** null if there is nothing to report: the choice ended with an end token, and no text was held back. */
  readonly event: TokenEvent | null
  readonly end: ChoiceEnd | null
  /** Tokens that belong to the answer; an end token does not. */
  readonly numTokens: number
}

interface ChoiceOptions {
  readonly sequence: Sequence
  readonly request: GenerationRequest
  readonly tokenizer: Tokenizer
  readonly eosTokenIds: readonly number[]
  /** null: the output is free. */
  readonly matcher: GrammarMatcher | null
  /** null: function calls are not looked for. */
  readonly toolCalls: ToolCalls | null
  /** null: no reasoning format is known, or the request does not ask for it. */
  readonly reasoningParser: ReasoningParser | null
}

/** State of one choice. `accept` turns token ids into an event; the choice ends at a stop, a limit or an end token. */
export class Choice {
  readonly sequence: Sequence
  readonly promptIndex: number
  /** Log-probabilities of the prompt so far, by position; null if this choice does not score its prompt. */
  readonly promptEntries: (ChoiceLogprob | null)[] | null
  readonly matcher: GrammarMatcher | null
  readonly #request: GenerationRequest
  readonly #tokenizer: Tokenizer
  readonly #eos: ReadonlySet<number>
  readonly #stopTokens: ReadonlySet<number>
  readonly #detokenizer = new IncrementalDetokenizer()
  readonly #stops: StopMatcher
  readonly #toolCalls: ToolCalls | null
  readonly #reasoningParser: ReasoningParser | null

  constructor(options: ChoiceOptions) {
    const { request, sequence } = options
    this.sequence = sequence
    this.promptIndex = Math.floor(sequence.choice / request.n)
    this.promptEntries = sequence.promptLogprobs < 0 ? null : [null]
    this.#request = request
    this.#tokenizer = options.tokenizer
    this.matcher = options.matcher
    // A complete grammar allows nothing but an end token, even with ignore_eos.
    this.#eos = new Set(request.ignoreEos && this.matcher === null ? [] : options.eosTokenIds)
    this.#stopTokens = new Set(request.stopTokenIds)
    // A stop string inside a required call must not cut the call.
    const mustCall = request.toolUse !== undefined && request.toolUse.choice !== 'auto'
    this.#stops = new StopMatcher(mustCall ? [] : request.stop, request.includeStopString)
    this.#toolCalls = options.toolCalls
    this.#reasoningParser = options.reasoningParser
  }

  /** Records log-probabilities of prompt tokens from `firstPosition` on. A preempted prompt records the same numbers again. */
  score(firstPosition: number, scores: readonly TokenLogprobs[]): void {
    for (const [i, detail] of scores.entries()) {
      const position = firstPosition + i
      if (this.promptEntries !== null)
        this.promptEntries[position] = this.#logprob(this.sequence.tokens.at(position), detail)
    }
  }

  /**
   * Takes the tokens of a step, up to the one that ends the choice, and appends them to the sequence. An end token is not part of the answer, but
   * its log-probability is reported last, because the score of an answer includes it.
   */
  accept(tokens: readonly number[], details: readonly (TokenLogprobs | null)[]): AcceptedTokens {
    const { sequence } = this
    const tokenIds: number[] = []
    const logprobs: ChoiceLogprob[] | null = this.#request.logprobs < 0 ? null : []
    const calls: ToolCallDelta[] = []
    let text = ''
    let reasoning = ''
    const answer = (shown: string) => {
      if (this.#toolCalls === null) text += shown
      else text += this.#toolCalls.parse(shown, calls)
    }
    const show = (shown: string) => {
      if (this.#reasoningParser === null) return answer(shown)
      const split = this.#reasoningParser.push(shown)
      reasoning += split.reasoning
      answer(split.text)
    }
    let end: ChoiceEnd | null = null
    for (const [i, token] of tokens.entries()) {
      const detail = details[i]
      if (detail !== undefined && detail !== null) logprobs?.push(this.#logprob(token, detail))
      if (this.#eos.has(token) || this.#stopTokens.has(token)) {
        const isAsked = this.#stopTokens.has(token)
        end = { reason: 'stop', stopReason: isAsked ? token : null, stop: isAsked ? 'stop_token' : 'eos' }
        break
      }
      this.matcher?.accept(token)
      sequence.tokens.push(token)
      sequence.sampling.push(token)
      tokenIds.push(token)
      if (this.#reasoningParser?.isThinking === true) sequence.counters.numReasoningTokens++
      const isMarker =
        this.#toolCalls?.markers.has(token) === true || this.#reasoningParser?.markers.has(token) === true
      const isSilent = this.#tokenizer.isSpecial(token) && !isMarker
      const piece = isSilent ? '' : this.#detokenizer.push(this.#tokenizer.tokenBytes(token))
      const hasEnough = sequence.numOutputTokens >= this.#request.minTokens
      if (!hasEnough || this.#toolCalls?.isInCall === true) show(this.#stops.flush() + piece)
      else {
        const result = this.#stops.push(piece)
        show(result.text)
        if (result.stop !== null) {
          end = { reason: 'stop', stopReason: result.stop, stop: 'stop_string' }
          break
        }
      }
      if (hasEnough && this.#toolCalls?.isComplete === true) {
        end = { reason: 'stop', stopReason: null, stop: 'tool_calls' }
        break
      }
      if (sequence.numOutputTokens >= sequence.maxOutputTokens) {
        end = { reason: 'length', stopReason: null, stop: null }
        break
      }
    }
    const wasCut = end !== null && typeof end.stopReason === 'string'
    if (end !== null && !wasCut) show(this.#flush())
    if (end !== null && this.#reasoningParser !== null) {
      const held = this.#reasoningParser.flush()
      reasoning += held.reasoning
      answer(held.text)
    }
    if (end !== null && this.#toolCalls !== null) text += this.#toolCalls.flush(calls)
    const isSilent = tokenIds.length === 0 && text === '' && calls.length === 0 && (logprobs ?? []).length === 0
    const event: TokenEvent | null = isSilent
      ? null
      : {
          type: 'token',
          choice: sequence.choice,
          text,
          ...(reasoning === '' ? {} : { reasoning }),
          ...(calls.length === 0 ? {} : { toolCalls: calls }),
          tokenIds,
          logprobs,
        }
    return { event, end, numTokens: tokenIds.length }
  }

  /** The text that was held back, up to a stop string that it completes. */
  #flush(): string {
    const result = this.#stops.push(this.#detokenizer.flush())
    return result.text + this.#stops.flush()
  }

  #logprob(tokenId: number, detail: TokenLogprobs): ChoiceLogprob {
    return {
      ...describeToken(this.#tokenizer, tokenId),
      detail,
      top: detail.topTokens.map((id, i) => ({
        ...describeToken(this.#tokenizer, id),
        logprob: detail.topLogprobs[i] ?? -Infinity,
      })),
    }
  }
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

/** How answers describe a token. */
type TokenDescription = Pick<ChoiceLogprob, 'tokenId' | 'token' | 'bytes'>

/** Descriptions by tokenizer and token id, because likely tokens occur again and again. */
const descriptions = new WeakMap<Tokenizer, Map<number, TokenDescription>>()

function describeToken(tokenizer: Tokenizer, tokenId: number): TokenDescription {
  let known = descriptions.get(tokenizer)
  if (known === undefined) descriptions.set(tokenizer, (known = new Map()))
  let description = known.get(tokenId)
  if (description === undefined) {
    const bytes = tokenizer.tokenBytes(tokenId)
    description = { tokenId, token: utf8.decode(bytes), bytes: [...bytes] }
    known.set(tokenId, description)
  }
  return description
}

/** The samples that count: those that equal their drafts, and the first one after them. */
export function acceptDrafts(drafts: readonly number[], samples: readonly number[]): readonly number[] {
  let numAccepted = 0
  while (numAccepted < drafts.length && drafts[numAccepted] === samples[numAccepted]) numAccepted++
  return samples.slice(0, numAccepted + 1)
}
