/** Texts under a grammar: those that a model without any preference writes, and those that are whole. */
import type { GrammarCompiler } from '../../src/engine/structured/grammar-compiler.ts'
import type { GrammarMatcher } from '../../src/engine/structured/grammar-protocol.ts'
import type { OutputConstraint } from '../../src/engine/structured/grammar-source.ts'
import { createByteTokenizer, EOS } from './byte-tokenizer.ts'
import { createRandom } from './random.ts'

const tokenizer = createByteTokenizer()
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export interface DrawOptions {
  /** Where one of them may come it is preferred, or strings and lists would go on for ever. */
  readonly closing?: string
  readonly maxBytes?: number
}

/**
 * Draws among the allowed bytes alone, which is what a temperature without end does. Null: not finished within the bound. Throws for bytes
 * that are no UTF-8, and where nothing is allowed.
 */
export async function draw(
  compiler: GrammarCompiler,
  constraint: OutputConstraint,
  seed: number,
  { closing = '"]},:', maxBytes = 600 }: DrawOptions = {},
): Promise<string | null> {
  const random = createRandom(seed)
  const matcher = await (await compiler.compile(constraint)).createMatcher()
  const bytes: number[] = []
  const preferred = [EOS, ...Buffer.from(closing)]
  try {
    while (bytes.length < maxBytes) {
      const mask = await matcher.mask()
      const allowed = Array.from({ length: EOS + 1 }, (_, token) => token).filter(
        (token) => ((mask[token >> 5] ?? 0) >>> (token & 31)) & 1,
      )
      if (allowed.length === 0) throw new Error(`a dead end after ${tokenizer.decode(bytes)}`)
      const ending = preferred.filter((token) => allowed.includes(token))
      const ascii = allowed.filter((token) => token < 128)
      const among = ending.length > 0 && random.next() < 0.4 ? ending : ascii.length > 0 && random.next() < 0.7 ? ascii : allowed // prettier-ignore
      const token = random.pick(among)
      matcher.accept(token)
      if (token === EOS) return strict.decode(Buffer.from(bytes))
      bytes.push(token)
    }
    return null
  } finally {
    matcher.close()
  }
}

/** Whether the text is whole for a grammar: allowed byte by byte, and the answer may end behind it. Closes the matcher. */
export async function isWhole(matcher: GrammarMatcher, text: string): Promise<boolean> {
  try {
    for (const byte of Buffer.from(text)) matcher.accept(byte)
    const mask = await matcher.mask()
    return (((mask[EOS >> 5] ?? 0) >>> (EOS & 31)) & 1) === 1
  } catch {
    return false
  } finally {
    matcher.close()
  }
}
