/** Which of a format's marks are tokens of their own in a vocabulary. */
import type { Tokenizer } from '../tokenizer.ts'
import type { ToolCallFormat } from './tool-call-format.ts'

/** Special tokens, by id, that stand in what the format writes. Others would be part of a text, and are none of its marks. */
export function marksOf(
  format: ToolCallFormat,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReadonlyMap<number, string> {
  const { body } = format
  const written = [...format.begin, ...format.end, ...format.callBegin, ...format.callEnd, ...format.otherMarks, ...Object.values(body).filter((value) => typeof value === 'string')] // prettier-ignore
  const marks = new Map<number, string>()
  for (const candidate of written.flatMap(tokensIn)) {
    const id = tokenizer.tokenId(candidate)
    if (id !== null && tokenizer.isSpecial(id)) marks.set(id, candidate)
  }
  return marks
}

/** The whole text, and what in it looks like a special token. */
function tokensIn(text: string): string[] {
  return [text.trim(), ...(text.match(/<[^<>\s]+>|\[\/?[A-Z_]+\]/g) ?? [])]
}
