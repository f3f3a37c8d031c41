/**
 * tokenizer.json -> the same tokenizer in the terms that the library of this process computes as the `tokenizers` package does. The library
 * ignores the behaviour of Punctuation, knows two of the five behaviours of Split, and takes JavaScript's lower case and word characters.
 */

type Json = Readonly<Record<string, unknown>>

/** Where the package's is_punctuation is true: ASCII punctuation, which has symbols such as < and |, and the punctuation of Unicode. */
const PUNCTUATION = String.raw`[\p{P}$+<=>^\x60|~]`

/** The package's \w: with marks, and the joiners between letters. */
const WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d`

/** Cuts a text into what the pattern matches, and drops the rest. */
const pieces = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Removed',
  invert: true,
})

/** A split of which each piece, with its match as `behavior` says, is matched by a pattern of its own. */
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

const escaped = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`)

function preTokenizer(stage: Json): Json {
  const { type, behavior, pattern, pretokenizers } = stage
  if (Array.isArray(pretokenizers))
    return { ...stage, pretokenizers: pretokenizers.map((inner) => preTokenizer(inner)) }
  if (type === 'Punctuation') return splitBy(PUNCTUATION, behavior ?? 'Isolated')
  if (type === 'Whitespace') return pieces(String.raw`[${WORD}]+|[^${WORD}\p{White_Space}]+`)
  if (type !== 'Split' || stage['invert'] === true || typeof pattern !== 'object' || pattern === null) return stage
  const { String: text, Regex: regex } = pattern as Json
  if (typeof text === 'string') return splitBy(escaped(text), behavior)
  const isKnown = behavior === 'Isolated' || behavior === 'Removed'
  return typeof regex === 'string' && !isKnown ? splitBy(regex, behavior) : stage
}

/** Letters one by one: JavaScript writes a sigma at the end of a word otherwise. */
const SIGMA: Json = { type: 'Replace', pattern: { String: 'Σ' }, content: 'σ' }

function normalizer(stage: Json): Json {
  const { type, normalizers, lowercase } = stage
  if (Array.isArray(normalizers)) return { ...stage, normalizers: normalizers.map((inner) => normalizer(inner)) }
  const lowers = type === 'Lowercase' || (type === 'BertNormalizer' && lowercase !== false)
  return lowers ? { type: 'Sequence', normalizers: [SIGMA, stage] } : stage
}

const isStage = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

/** The stages before the model, of a parsed tokenizer.json. Stages of unknown types stay as they are: the library refuses them by name. */
export function libraryStages(tokenizer: Json): { readonly normalizer: unknown; readonly pre_tokenizer: unknown } {
  const { normalizer: before, pre_tokenizer: splits } = tokenizer
  return {
    normalizer: isStage(before) ? normalizer(before) : (before ?? null),
    pre_tokenizer: isStage(splits) ? preTokenizer(splits) : (splits ?? null),
  }
}
