/** Which of a format's marks are tokens of their own in a vocabulary. */
import { specialTokensIn } from '../special-tokens.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { ToolCallFormat } from './tool-call-format.ts'

/** Special tokens, by id, that stand in what the format writes. Others would be part of a text, and are none of its marks. */
export function marksOf(
  format: ToolCallFormat,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReadonlyMap<number, string> {
  const { begin, end, callBegin, callEnd, otherMarks, body } = format
  const ofBody = Object.values(body).filter((value) => typeof value === 'string')
  return specialTokensIn([...begin, ...end, ...callBegin, ...callEnd, ...otherMarks, ...ofBody], tokenizer)
}
