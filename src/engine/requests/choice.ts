/** One choice being generated: tokens in, token events with text out, and the decision when it ends. */
import type { FinishReason, StopKind } from '../events.ts'
import type { GrammarMatcher } from '../structured/grammar.ts'
import type { ReasoningParser } from '../reasoning/reasoning-format.ts'
import type { ChoiceLogprob, GenerationRequest, TokenEvent, ToolCallDelta } from '../request.ts'
import type { TokenLogprobs } from '../runner/runner.ts'
import type { Sequence } from '../schedule/sequence.ts'
import { IncrementalDetokenizer, StopMatcher } from './stops.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { ToolCalls } from '../tool-calls/tool-calls.ts'

export interface ChoiceEnd {
  readonly reason: FinishReason
  /** The stop string or stop token id that ended it. */
  readonly stopReason: string | number | null
  /** null: it did not stop of its own accord. */
  readonly stop: StopKind | null
}

/** What a step's tokens became. */
interface AcceptedTokens {
  /** null when there is nothing to say: the choice ended with an end token and no text was held back. */
  readonly event: TokenEvent | null
  readonly end: ChoiceEnd | null
  /** Tokens that count. */
  readonly numTokens: number
}

interface ChoiceOptions {
  readonly sequence: Sequence
  readonly request: GenerationRequest
  readonly tokenizer: Tokenizer
  readonly eosTokenIds: readonly number[]
  /** null: the output is free. */
  readonly matcher: GrammarMatcher | null
  /** null: what the model writes is text. */
  readonly toolCalls: ToolCalls | null
  /** null: the model is not known to think, or nobody asked. */
  readonly thought: ReasoningParser | null
}

/** State of one choice: `accept` takes token ids and gives events; it ends at a stop, a limit or an end token. */
export class Choice {
  readonly sequence: Sequence
  readonly promptIndex: number
  /** Prompt log-probabilities so far, by position; null where this choice does not score. */
  readonly promptEntries: (ChoiceLogprob | null)[] | null
  readonly matcher: GrammarMatcher | null
  readonly #request: GenerationRequest
  readonly #tokenizer: Tokenizer
  readonly #eos: ReadonlySet<number>
  readonly #stopTokens: ReadonlySet<number>
  readonly #detokenizer = new IncrementalDetokenizer()
  readonly #stops: StopMatcher
  readonly #toolCalls: ToolCalls | null
  readonly #thought: ReasoningParser | null

  constructor(options: ChoiceOptions) {
    const { request, sequence } = options
    this.sequence = sequence
    this.promptIndex = Math.floor(sequence.choice / request.n)
    this.promptEntries = sequence.promptLogprobs < 0 ? null : [null]
    this.#request = request
    this.#tokenizer = options.tokenizer
    this.matcher = options.matcher
    // A grammar that is complete allows nothing but an end token.
    this.#eos = new Set(request.ignoreEos && this.matcher === null ? [] : options.eosTokenIds)
    this.#stopTokens = new Set(request.stopTokenIds)
    // A call that has to be made is not cut by a text that happens to stand in it.
    const mustCall = request.toolUse !== undefined && request.toolUse.choice !== 'auto'
    this.#stops = new StopMatcher(mustCall ? [] : request.stop, request.includeStopString)
    this.#toolCalls = options.toolCalls
    this.#thought = options.thought
  }

  /** Log-probabilities of prompt tokens from `firstPosition` on. A preempted prompt scores positions again: the same numbers. */
  score(firstPosition: number, scores: readonly TokenLogprobs[]): void {
    for (const [i, detail] of scores.entries()) {
      const position = firstPosition + i
      if (this.promptEntries !== null)
        this.promptEntries[position] = this.#logprob(this.sequence.tokens.at(position), detail)
    }
  }

  /**
   * Takes a step's tokens, in order, up to the one that ends the choice, and pushes those that count to the sequence. An end token is no text and
   * does not count, but its log-probability is the answer's last: whoever scores answers needs it.
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
      if (this.#thought === null) return answer(shown)
      const parted = this.#thought.push(shown)
      reasoning += parted.reasoning
      answer(parted.text)
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
      if (this.#thought?.isThinking === true) sequence.counters.numReasoningTokens++
      const isMarker = this.#toolCalls?.markers.has(token) === true || this.#thought?.markers.has(token) === true
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
    if (end !== null && this.#thought !== null) {
      const held = this.#thought.flush()
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

  /** What was held back is text after all, unless it completes a stop string now. */
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

/** What answers say of a token by itself. */
type TokenDescription = Pick<ChoiceLogprob, 'tokenId' | 'token' | 'bytes'>

/** The descriptions of each tokenizer's tokens that some answer spoke of, by id: the likely ones come again and again. */
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

/** Drafts are accepted while they equal the samples; the first sample that differs, or the one after the last draft, counts too. */
export function acceptDrafts(drafts: readonly number[], samples: readonly number[]): readonly number[] {
  let numAccepted = 0
  while (numAccepted < drafts.length && drafts[numAccepted] === samples[numAccepted]) numAccepted++
  return samples.slice(0, numAccepted + 1)
}
