/** How a vocabulary spells the bytes of its tokens, determined from the decoder in tokenizer.json. */
import { ModelError } from '../runner/runner.ts'

/** How the strings of the vocabulary spell bytes. */
export interface Spelling {
  /**
   * byte_level: each character stands for a byte (GPT-2). sentencepiece: `▁` is a space, `<0xNN>` a byte. wordpiece: pieces that continue a word
   * begin with `##`. plain: UTF-8.
   */
  readonly kind: 'byte_level' | 'sentencepiece' | 'wordpiece' | 'plain'
  /** The encoder puts a space before a text, which decoding removes. */
  readonly stripsFirstSpace: boolean
}

/** The use of a tokenizer. One that only reads text need not spell its tokens to the byte. */
export type TokenizerUse = 'generate' | 'read'

const utf8 = new TextEncoder()

/** The bytes that a token stands for in running text. */
export function bytesOfToken(token: string, spelling: Spelling['kind']): Uint8Array {
  if (spelling === 'plain') return utf8.encode(token)
  if (spelling === 'byte_level') return spellByteLevel(token)
  if (spelling === 'wordpiece') return utf8.encode(token.startsWith('##') ? token.slice(2) : ` ${token}`)
  const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1]
  return byte === undefined ? utf8.encode(token.replaceAll('▁', ' ')) : Uint8Array.of(Number.parseInt(byte, 16))
}

function spellByteLevel(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character)
    if (byte === undefined) return utf8.encode(token)
    bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

/** GPT-2's byte alphabet: printable bytes of Latin-1 are written as themselves, the others, in order, as U+0100 and up. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>()
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    map.set(String.fromCodePoint(isPrintable ? byte : next++), byte)
  }
  return map
})()

/** The spelling, from the steps of the decoder. @throws ModelError for a decoder that cannot produce generated text */
export function spellingOf(tokenizer: Record<string, unknown>, use: TokenizerUse): Spelling {
  const steps = decoderSteps(tokenizer.decoder)
  const types = new Set(steps.map((step) => step.type))
  if (use === 'read' && types.has('WordPiece')) return { kind: 'wordpiece', stripsFirstSpace: true }
  for (const type of use === 'read' ? [] : types) {
    if (type === 'WordPiece' || type === 'CTC' || type === 'BPEDecoder') {
      throw new ModelError(
        `tokenizer.json: decoder: expected ByteLevel, Metaspace or Replace with ByteFallback, found ${String(type)}; this is not a tokenizer of a causal language model`,
      )
    }
  }
  if (types.has('ByteLevel')) return { kind: 'byte_level', stripsFirstSpace: false }
  const metaspace = steps.find((step) => step.type === 'Metaspace')
  const strip = steps.find((step) => step.type === 'Strip')
  if (metaspace !== undefined || types.has('ByteFallback') || types.has('Replace')) {
    const prepends =
      metaspace !== undefined && metaspace.prepend_scheme !== 'never' && metaspace.add_prefix_space !== false
    return { kind: 'sentencepiece', stripsFirstSpace: prepends || Number(strip?.start ?? 0) > 0 }
  }
  return { kind: 'plain', stripsFirstSpace: false }
}

function decoderSteps(decoder: unknown): Record<string, unknown>[] {
  const step = recordOf(decoder)
  return step.type === 'Sequence' && Array.isArray(step.decoders) ? step.decoders.flatMap(decoderSteps) : [step]
}

/** A JSON object as a record; empty for any other value. */
export function recordOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {}
}
