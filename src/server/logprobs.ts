/** Log-probabilities in the formats of the routes. */
import type { ChoiceLogprob } from '../engine/request.ts'
import { LazyList } from './large-json.ts'

/** How tokens are named. */
interface TokenNames {
  /** How many of the likeliest tokens the caller asked for. */
  readonly top: number
  /** `token_id:N` instead of the token's text, as in vLLM: different tokens may have the same text. */
  readonly asIds: boolean
}

const nameOf = (token: { readonly tokenId: number; readonly token: string }, { asIds }: TokenNames): string =>
  asIds ? `token_id:${token.tokenId}` : token.token

/**
 * In the format of /v1/completions. Offsets count characters (code points) from `start` on.
 * @param firstToken text of a prompt's first token, which has no log-probability
 */
export function legacyLogprobs(
  entries: readonly (ChoiceLogprob | null)[],
  names: TokenNames,
  start: number,
  firstToken = '',
) {
  const offsets: number[] = []
  let offset = start
  for (const entry of entries) {
    offsets.push(offset)
    offset += numCharacters(entry?.token ?? firstToken)
  }
  return {
    tokens: new LazyList(entries, (entry) => (entry ? nameOf(entry, names) : firstToken)),
    token_logprobs: new LazyList(entries, (entry) => finite(entry?.detail.logprob ?? null)),
    top_logprobs: names.top === 0 ? null : new LazyList(entries, (entry) => entry && topOf(entry, names)),
    text_offset: offsets,
  }
}

/** The most likely tokens and, as in OpenAI's API, always the sampled one. */
const topOf = (entry: ChoiceLogprob, names: TokenNames): Record<string, number | null> =>
  Object.fromEntries([
    ...entry.top.slice(0, names.top).map((token) => [nameOf(token, names), finite(token.logprob)] as const),
    [nameOf(entry, names), finite(entry.detail.logprob)],
  ])

/** In the format of /v1/chat/completions. */
export const chatLogprobs = (entries: readonly ChoiceLogprob[], names: TokenNames) => ({
  content: new LazyList(entries, (entry) => ({
    token: nameOf(entry, names),
    logprob: finite(entry.detail.logprob),
    bytes: entry.bytes,
    top_logprobs: entry.top
      .slice(0, names.top)
      .map((token) => ({ token: nameOf(token, names), logprob: finite(token.logprob), bytes: token.bytes })),
  })),
  refusal: null,
})

/** Of a prompt, in vLLM's format: per token an object keyed by token id; null for the first token. */
export const promptLogprobs = (entries: readonly (ChoiceLogprob | null)[], top: number) =>
  new LazyList(
    entries,
    (entry) =>
      entry &&
      Object.fromEntries([
        ...entry.top
          .slice(0, top)
          .map((token, i) => [
            token.tokenId,
            { logprob: finite(token.logprob), rank: i + 1, decoded_token: token.token },
          ]),
        [entry.tokenId, { logprob: finite(entry.detail.logprob), rank: entry.detail.rank, decoded_token: entry.token }],
      ]),
  )

/** Number of characters of a text. A surrogate pair counts as one. */
export function numCharacters(text: string): number {
  let pairs = 0
  for (let i = 1; i < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xdc00 && (text.charCodeAt(i - 1) & 0xfc00) === 0xd800) pairs++
  }
  return text.length - pairs
}

/** JSON has no -Infinity; OpenAI's stand-in for "impossible" is -9999. */
const finite = (value: number | null): number | null => (value === null || Number.isFinite(value) ? value : -9999)
