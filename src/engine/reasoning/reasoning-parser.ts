/**
 * Splits the text of one choice into reasoning and answer while it arrives. The result does not depend on where the pieces are cut. White
 * space around the reasoning belongs to neither.
 */
import { partialLengthWithSpace } from '../markers.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { ChannelParser } from './channel-parser.ts'
import { isReasoningOpen, reasoningMarkers } from './reasoning-format.ts'
import type { SplitText, ReasoningFormat, ReasoningParser } from './reasoning-format.ts'

/** Creates the parser for a choice. @param promptEnd the end of the choice's prompt, as text */
export function createReasoningParser(
  format: ReasoningFormat,
  promptEnd: string,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): ReasoningParser {
  const markers = new Set(reasoningMarkers(format, tokenizer).keys())
  if (format.hasChannels) return new ChannelParser(promptEnd, markers)
  return new TaggedParser(format, isReasoningOpen(format, promptEnd), markers)
}

/** `before`: reasoning may begin. `leading`: in the white space at its beginning. `trailing`: in the white space after it. */
type Phase = 'before' | 'leading' | 'reasoning' | 'trailing' | 'answer'

class TaggedParser implements ReasoningParser {
  readonly markers: ReadonlySet<number>
  readonly #format: ReasoningFormat
  #phase: Phase
  /** The possible beginning of a marker, or white space that may be dropped. */
  #held = ''

  constructor(format: ReasoningFormat, isOpen: boolean, markers: ReadonlySet<number>) {
    this.#format = { ...format, begin: format.begin.trimEnd() }
    this.#phase = isOpen ? 'leading' : 'before'
    this.markers = markers
  }

  get isThinking(): boolean {
    return this.#phase === 'leading' || this.#phase === 'reasoning'
  }

  push(piece: string): SplitText {
    this.#held += piece
    let [reasoning, text] = ['', '']
    for (;;) {
      const held = this.#held
      switch (this.#phase) {
        case 'before': {
          const { begin } = this.#format
          const solid = held.trimStart()
          if (begin.startsWith(solid) && solid !== begin) return { reasoning, text }
          this.#phase = solid.startsWith(begin) ? 'leading' : 'answer'
          if (this.#phase === 'leading') this.#held = solid.slice(begin.length)
          break
        }
        case 'leading':
          this.#held = held.trimStart()
          if (this.#held === '') return { reasoning, text }
          this.#phase = 'reasoning'
          break
        case 'reasoning': {
          const { end } = this.#format
          const at = held.indexOf(end)
          if (at < 0) {
            const kept = partialLengthWithSpace(held, [end])
            reasoning += held.slice(0, held.length - kept)
            this.#held = held.slice(held.length - kept)
            return { reasoning, text }
          }
          reasoning += held.slice(0, at).trimEnd()
          this.#held = held.slice(at + end.length)
          this.#phase = 'trailing'
          break
        }
        case 'trailing':
          this.#held = held.trimStart()
          if (this.#held === '') return { reasoning, text }
          this.#phase = 'answer'
          break
        case 'answer':
          text += held
          this.#held = ''
          return { reasoning, text }
      }
    }
  }

  flush(): SplitText {
    const held = this.#held
    this.#held = ''
    if (this.#phase === 'reasoning') return { reasoning: held.trimEnd(), text: '' }
    return { reasoning: '', text: this.#phase === 'before' ? held : '' }
  }
}
