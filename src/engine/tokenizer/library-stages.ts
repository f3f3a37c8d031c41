/**
 * Rewrites stages of tokenizer.json so that the JavaScript library computes what the `tokenizers` package does. The library ignores the behavior
 * of Punctuation, implements two of the five behaviors of Split, and uses JavaScript's lower case and word characters.
 */

type Json = Readonly<Record<string, unknown>>

/** The package's is_punctuation: ASCII punctuation, including symbols such as < and |, and Unicode punctuation. */
const PUNCTUATION = String.raw`[\p{P}$+<=>^\x60|~]`

/** The package's \w, which includes combining marks and joiners. */
const WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d`

/** Splits a text into the matches of the pattern and drops the rest. */
const pieces = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Removed',
  invert: true,
})

/** A split with any behavior, expressed by a pattern that matches each resulting piece. */
function splitBy(regex: string, behavior: unknown): Json {
  const match = `(?:${regex})`
  const rest = String.raw`(?:(?!${match})[\s\S])`
  switch (behavior) {
    case 'MergedWithPrevious':
      return pieces(`${rest}*${match}|${rest}+`)
    case 'MergedWithNext':
      return pieces(`${match}${rest}*|${rest}+`)
    case 'Contiguous':
      return pieces(`${match}+|${rest}+`)
    case 'Removed':
      return pieces(`(?:${rest})+`)
    default:
      return { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }
  }
}

/** A text as a pattern that matches it. */
export const escapeRegExp = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`)

function preTokenizer(stage: Json): Json {
  const { type, behavior, pattern, pretokenizers } = stage
  if (Array.isArray(pretokenizers))
    return { ...stage, pretokenizers: pretokenizers.map((inner) => preTokenizer(inner)) }
  if (type === 'Punctuation') return splitBy(PUNCTUATION, behavior ?? 'Isolated')
  if (type === 'Whitespace') return pieces(String.raw`[${WORD}]+|[^${WORD}\p{White_Space}]+`)
  if (type !== 'Split' || stage['invert'] === true || typeof pattern !== 'object' || pattern === null) return stage
  const { String: text, Regex: regex } = pattern as Json
  if (typeof text === 'string') return splitBy(escapeRegExp(text), behavior)
  const isKnown = behavior === 'Isolated' || behavior === 'Removed'
  return typeof regex === 'string' && !isKnown ? splitBy(regex, behavior) : stage
}

/** Lower-cases sigma separately, because JavaScript writes it differently at the end of a word. */
const SIGMA: Json = { type: 'Replace', pattern: { String: 'Σ' }, content: 'σ' }

function normalizer(stage: Json): Json {
  const { type, normalizers, lowercase } = stage
  if (Array.isArray(normalizers)) return { ...stage, normalizers: normalizers.map((inner) => normalizer(inner)) }
  const lowers = type === 'Lowercase' || (type === 'BertNormalizer' && lowercase !== false)
  return lowers ? { type: 'Sequence', normalizers: [SIGMA, stage] } : stage
}

const isStage = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

/** The rewritten stages before the model. Stages of unknown types stay unchanged; the library refuses them by name. */
export function libraryStages(tokenizer: Json): { readonly normalizer: unknown; readonly pre_tokenizer: unknown } {
  const { normalizer: before, pre_tokenizer: splits } = tokenizer
  return {
    normalizer: isStage(before) ? normalizer(before) : (before ?? null),
    pre_tokenizer: isStage(splits) ? preTokenizer(splits) : (splits ?? null),
  }
}
