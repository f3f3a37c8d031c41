/**
 * The thought of one choice: parts its text, while it is written, into what the model thinks and what it answers. The result does not depend
 * on where the pieces are cut. White space around a thought belongs to neither.
 */
import type { Tokenizer } from '../tokenizer.ts'
import { ChannelThought } from './channel-thought.ts'
import { isOpenThought, reasoningMarks } from './reasoning-format.ts'
import type { PartedText, ReasoningFormat, Thought } from './reasoning-format.ts'

/** `promptEnd`: the last text of the choice's prompt. */
export function createThought(
  format: ReasoningFormat,
  promptEnd: string,
  tokenizer: Pick<Tokenizer, 'tokenId' | 'isSpecial'>,
): Thought {
  const marks = new Set(reasoningMarks(format, tokenizer).keys())
  if (format.hasChannels) return new ChannelThought(promptEnd, marks)
  return new TaggedThought(format, isOpenThought(format, promptEnd), marks)
}

/** `before`: a thought may begin. `leading`: it has begun, and nothing but white space was written. `behind`: white space after it. */
type Phase = 'before' | 'leading' | 'thought' | 'behind' | 'answer'

class TaggedThought implements Thought {
  readonly marks: ReadonlySet<number>
  readonly #format: ReasoningFormat
  #phase: Phase
  /** What may still be the beginning of a mark, or white space that may be nothing. */
  #held = ''

  constructor(format: ReasoningFormat, isOpen: boolean, marks: ReadonlySet<number>) {
    this.#format = { ...format, begin: format.begin.trimEnd() }
    this.#phase = isOpen ? 'leading' : 'before'
    this.marks = marks
  }

  get isThinking(): boolean {
    return this.#phase === 'leading' || this.#phase === 'thought'
  }

  push(piece: string): PartedText {
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
          this.#phase = 'thought'
          break
        case 'thought': {
          const { end } = this.#format
          const at = held.indexOf(end)
          if (at < 0) {
            const kept = numHeld(held, end)
            reasoning += held.slice(0, held.length - kept)
            this.#held = held.slice(held.length - kept)
            return { reasoning, text }
          }
          reasoning += held.slice(0, at).trimEnd()
          this.#held = held.slice(at + end.length)
          this.#phase = 'behind'
          break
        }
        case 'behind':
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

  flush(): PartedText {
    const held = this.#held
    this.#held = ''
    if (this.#phase === 'thought') return { reasoning: held.trimEnd(), text: '' }
    return { reasoning: '', text: this.#phase === 'before' ? held : '' }
  }
}

/** Characters at the end that may be white space before the mark, or the beginning of it. */
function numHeld(text: string, mark: string): number {
  let length = Math.min(mark.length - 1, text.length)
  while (length > 0 && !text.endsWith(mark.slice(0, length))) length--
  const solid = text.slice(0, text.length - length)
  return length + solid.length - solid.trimEnd().length
}
