/** Which words of a form that models were trained on are tokens of their own in a vocabulary. */
import type { Tokenizer } from './tokenizer.ts'

/** Special tokens, by id, that the texts are, or are made of. */
export function specialTokensIn(
  texts: readonly string[],
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReadonlyMap<number, string> {
  const found = new Map<number, string>()
  for (const text of texts) {
    for (const candidate of [text.trim(), ...(text.match(/<[^<>\s]+>|\[\/?[A-Z_]+\]/g) ?? [])]) {
      const id = tokenizer.tokenId(candidate)
      if (id !== null && tokenizer.isSpecial(id)) found.set(id, candidate)
    }
  }
  return found
}
