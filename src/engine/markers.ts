/** Markers: the fixed words around reasoning and function calls in a model's output, such as `<think>` and `</tool_call>`. */
import type { Tokenizer } from './tokenizer/tokenizer.ts'

/** The special tokens of a vocabulary, by id, that the texts consist of or contain. */
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

/** Length of the longest end of `text` that may become one of the strings: a beginning of it, but not all of it. */
export function partialLength(text: string, strings: readonly string[]): number {
  let longest = 0
  for (const string of strings) {
    for (let length = Math.min(string.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(string.slice(0, length))) longest = length
    }
  }
  return longest
}

/** As `partialLength`, and the white space before that end, which belongs to nothing if a marker follows. */
export function partialLengthWithSpace(text: string, markers: readonly string[]): number {
  return text.length - text.slice(0, text.length - partialLength(text, markers)).trimEnd().length
}

/** Whether a character is white space. */
export const isSpace = (character: string): boolean => /\s/.test(character)
