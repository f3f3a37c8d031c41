/** A tokenizer.json whose tokens are the 256 bytes, two merges and an end token: small, real, and every text has one encoding. */
import { createTokenizer } from '../../src/engine/tokenizer/tokenizer.ts'
import type { Tokenizer } from '../../src/engine/tokenizer/tokenizer.ts'

export const EOS = 256

function byteCharacters(): string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    return String.fromCodePoint(isPrintable ? byte : next++)
  })
}

/** `special`: further special tokens, from id 259 on. */
export function createByteTokenizer(special: readonly string[] = [], eos = '<|end|>'): Tokenizer {
  const vocab = Object.fromEntries(byteCharacters().map((character, byte) => [character, byte]))
  return createTokenizer({
    tokenizer: {
      version: '1.0',
      added_tokens: [
        { id: EOS, content: eos, special: true, normalized: false },
        ...special.map((content, i) => ({ id: 259 + i, content, special: true, normalized: false })),
      ],
      normalizer: null,
      pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      post_processor: null,
      decoder: { type: 'ByteLevel' },
      model: { type: 'BPE', vocab: { ...vocab, [eos]: EOS, th: 257, Ġthe: 258 }, merges: [['t', 'h']] },
    },
    config: { eos_token: eos },
  })
}
