/**
 * The parts of an answer that is made of messages with channels (harmony, gpt-oss): `analysis` is thought, `commentary` and `final` are
 * text, and messages to functions go on as the form of calls that reads them. What has no header is text.
 */
import type { PartedText, Thought } from './reasoning-format.ts'

const MARKS = ['<|start|>', '<|channel|>', '<|message|>', '<|end|>', '<|call|>', '<|return|>', '<|constrain|>']
/** They end a message, or begin the next where an end is missing. */
const ENDS = ['<|end|>', '<|call|>', '<|return|>', '<|start|>', '<|channel|>']
const MESSAGE = '<|message|>'
const CALL = '<|call|>'
/** Beyond every header. */
const MAX_HEADER_CHARACTERS = 400

/** `header`: before a message's text. `between`: behind a message. The others are what the message is. */
type Phase = 'header' | 'between' | 'thought' | 'text' | 'call'

/** Splits messages with channels (gpt-oss) into reasoning and answer while the text arrives. */
export class ChannelThought implements Thought {
  readonly marks: ReadonlySet<number>
  #phase: Phase
  /** A header, or what may be the beginning of a mark, or white space that may be nothing. */
  #held = ''
  #hasText = false
  #hasReasoning = false
  /** Something of the message was given out. */
  #hasBegun = false

  constructor(promptEnd: string, marks: ReadonlySet<number>) {
    this.marks = marks
    const last = promptEnd.slice(Math.max(0, promptEnd.lastIndexOf('<|start|>')))
    const at = last.indexOf(MESSAGE)
    this.#phase = 'header'
    if (/<\|(?:end|call|return)\|>\s*$/.test(last)) this.#phase = 'between'
    else if (at >= 0) {
      this.#begin(last.slice(0, at))
      this.#hasBegun = at + MESSAGE.length < last.length
    } else if (last.startsWith('<|start|>')) this.#held = last.replace(/^<\|start\|>\w*/, '')
    else if (last !== '') this.#beginText()
  }

  get isThinking(): boolean {
    return this.#phase === 'thought'
  }

  push(piece: string): PartedText {
    const parted = { reasoning: '', text: '' }
    this.#held += piece
    while (this.#step(parted));
    return parted
  }

  flush(): PartedText {
    const [held, phase] = [this.#held, this.#phase]
    this.#held = ''
    if (phase === 'thought') return { reasoning: held.trimEnd(), text: '' }
    return { reasoning: '', text: phase === 'between' ? '' : held }
  }

  /** Takes the next part of what is held. False: more has to come. */
  #step(parted: { reasoning: string; text: string }): boolean {
    switch (this.#phase) {
      case 'header':
        return this.#readHeader(parted)
      case 'between': {
        const solid = this.#held.trimStart()
        if (solid === '' || MARKS.some((mark) => mark.startsWith(solid) && mark !== solid)) return false
        const [mark] = MARKS.filter((own) => solid.startsWith(own))
        const isEnd = mark === '<|end|>' || mark === CALL || mark === '<|return|>'
        this.#held = isEnd ? solid.slice(mark.length) : solid
        if (!isEnd) this.#phase = 'header'
        return true
      }
      default:
        return this.#readMessage(parted)
    }
  }

  #readHeader(parted: { reasoning: string; text: string }): boolean {
    const at = this.#held.indexOf(MESSAGE)
    if (at >= 0) {
      const header = this.#held.slice(0, at)
      this.#held = this.#held.slice(at + MESSAGE.length)
      const shown = this.#begin(header)
      if (shown !== '') this.#give(parted, shown)
      return true
    }
    if (isHeader(this.#held)) return false
    this.#beginText()
    return true
  }

  /** A text without a header, or one that the prompt began. */
  #beginText(): void {
    this.#phase = 'text'
    this.#hasBegun = true
  }

  /** Begins a message; what of its header is text. */
  #begin(header: string): string {
    const channel = /<\|channel\|>\s*(\w+)/.exec(header)?.[1]
    const recipient = /to=([^\s<]+)/.exec(header)?.[1] ?? ''
    this.#hasBegun = false
    if (recipient !== '' && recipient !== 'all') {
      this.#phase = 'call'
      return `<|channel|>commentary to=${recipient} <|constrain|>json${MESSAGE}`
    }
    this.#phase = channel === 'analysis' ? 'thought' : 'text'
    return ''
  }

  #readMessage(parted: { reasoning: string; text: string }): boolean {
    const held = this.#held
    const ends = ENDS.map((mark) => ({ mark, at: held.indexOf(mark) })).filter(({ at }) => at >= 0)
    const [end] = ends.toSorted((a, b) => a.at - b.at)
    if (end === undefined) {
      const kept = numHeld(held, this.#phase !== 'call')
      this.#give(parted, held.slice(0, held.length - kept))
      this.#held = held.slice(held.length - kept)
      return false
    }
    const body = held.slice(0, end.at)
    this.#give(parted, this.#phase === 'call' ? body + CALL : body.trimEnd())
    const isNext = end.mark === '<|start|>' || end.mark === '<|channel|>'
    this.#held = held.slice(end.at + (isNext ? 0 : end.mark.length))
    this.#phase = 'between'
    return true
  }

  #give(parted: { reasoning: string; text: string }, piece: string): void {
    const isThought = this.#phase === 'thought'
    const shown = this.#hasBegun || this.#phase === 'call' ? piece : piece.trimStart()
    if (shown === '') return
    // Messages that follow each other stay apart.
    const isApart = !this.#hasBegun && (isThought ? this.#hasReasoning : this.#hasText)
    const text = isApart ? `\n${shown}` : shown
    this.#hasBegun = true
    if (isThought) {
      this.#hasReasoning = true
      parted.reasoning += text
    } else {
      this.#hasText = true
      parted.text += text
    }
  }
}

/** What is read so far may still become a header. */
function isHeader(text: string): boolean {
  const solid = text.trimStart()
  const begins = (whole: string) => whole.startsWith(solid) || solid.startsWith(whole)
  const isBegun = solid === '' || ['<|start|>', '<|channel|>', '<|constrain|>', '<|message|>', 'to='].some(begins)
  return isBegun && text.length <= MAX_HEADER_CHARACTERS
}

/** Characters at the end that may be the beginning of a mark, or white space before one. */
function numHeld(text: string, withSpace: boolean): number {
  let length = Math.min(MESSAGE.length, text.length)
  while (length > 0 && !ENDS.some((mark) => mark.startsWith(text.slice(text.length - length)))) length--
  const solid = text.slice(0, text.length - length)
  return length + (withSpace ? solid.length - solid.trimEnd().length : 0)
}
