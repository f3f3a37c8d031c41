/**
 * The vocabularies of encoders in GGUF files, converted to tokenizer.json: WordPiece (`bert`), where llama.cpp marks the beginnings of words instead of their
 * continuations, and Unigram (`t5`).
 */

const WORD_START = '▁'
const CONTINUES = '##'

/** A special token, in a template of a post-processor. */
export const tokenPlace = (id: string, segment: number): unknown => ({ SpecialToken: { id, type_id: segment } })
/** One of the texts, in such a template. */
export const textPlace = (id: 'A' | 'B', segment: number): unknown => ({ Sequence: { id, type_id: segment } })

/** The post-processor that puts tokens around a text and around a pair of texts. */
export function tokenTemplate(
  single: readonly unknown[],
  pair: readonly unknown[],
  tokens: readonly (readonly [string, number])[],
): Record<string, unknown> {
  const entries = tokens.map(([token, id]) => [token, { id: token, ids: [id], tokens: [token] }] as const)
  return { type: 'TemplateProcessing', single, pair, special_tokens: Object.fromEntries(entries) as unknown }
}

/** The stages of a WordPiece tokenizer. @param isControl whether a token is special, as [CLS] is */
export function wordPieceStages(
  tokens: readonly string[],
  isControl: (id: number) => boolean,
  ids: { readonly cls: number; readonly sep: number; readonly unknown: number },
): Record<string, unknown> {
  const vocab: Record<string, number> = {}
  let isCased = false
  for (const [id, token] of tokens.entries()) {
    const text = isControl(id) ? token : token.startsWith(WORD_START) ? token.slice(1) : CONTINUES + token
    isCased ||= !isControl(id) && text !== text.toLowerCase()
    vocab[text] = id
  }
  const [cls, sep] = [tokens[ids.cls] ?? '', tokens[ids.sep] ?? '']
  return {
    normalizer: {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      // Files do not say whether text is lower-cased, but their vocabularies show it.
      lowercase: !isCased,
    },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: tokenTemplate(
      [tokenPlace(cls, 0), textPlace('A', 0), tokenPlace(sep, 0)],
      [tokenPlace(cls, 0), textPlace('A', 0), tokenPlace(sep, 0), textPlace('B', 1), tokenPlace(sep, 1)],
      [
        [cls, ids.cls],
        [sep, ids.sep],
      ],
    ),
    decoder: { type: 'WordPiece', prefix: CONTINUES, cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: tokens[ids.unknown] ?? '[UNK]',
      continuing_subword_prefix: CONTINUES,
      max_input_chars_per_word: 100,
      vocab,
    },
  }
}

/** The stages of a Unigram tokenizer. @param charsMap SentencePiece's table of replacements; null: NFKC, which most tables equal */
export function unigramStages(
  tokens: readonly string[],
  scores: readonly number[],
  ids: { readonly bos: number; readonly eos: number; readonly unknown: number },
  charsMap: ArrayLike<number> | null,
): Record<string, unknown> {
  const [bos, eos] = [tokens[ids.bos] ?? '', tokens[ids.eos] ?? '']
  const around = (id: 'A' | 'B'): unknown[] => [textPlace(id, 0), tokenPlace(eos, 0)]
  return {
    normalizer:
      charsMap === null
        ? { type: 'NFKC' }
        : {
            type: 'Precompiled',
            precompiled_charsmap: Buffer.from(charsMap as ArrayLike<number> & Iterable<number>).toString('base64'),
          },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'WhitespaceSplit' },
        { type: 'Metaspace', replacement: WORD_START, add_prefix_space: true, prepend_scheme: 'always' },
      ],
    },
    post_processor: tokenTemplate(
      [tokenPlace(bos, 0), ...around('A')],
      [tokenPlace(bos, 0), ...around('A'), tokenPlace(eos, 0), ...around('B')],
      [
        [bos, ids.bos],
        [eos, ids.eos],
      ],
    ),
    decoder: { type: 'Metaspace', replacement: WORD_START, add_prefix_space: true, prepend_scheme: 'always' },
    model: { type: 'Unigram', unk_id: ids.unknown, vocab: tokens.map((token, i) => [token, scores[i] ?? 0]) },
  }
}
