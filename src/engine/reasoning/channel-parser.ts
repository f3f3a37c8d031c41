/**
 * Splits an answer that consists of messages with channels (harmony, gpt-oss). `analysis` is reasoning; `commentary` and `final` are text;
 * messages to functions are passed on in the format that the parser of calls reads. Text without a header is text.
 */
import { partialLength, partialLengthWithSpace } from '../markers.ts'
import type { SplitText, ReasoningParser } from './reasoning-format.ts'

const MARKERS = ['<|start|>', '<|channel|>', '<|message|>', '<|end|>', '<|call|>', '<|return|>', '<|constrain|>']
/** Markers that end a message, or begin the next one if the end is missing. */
const ENDS = ['<|end|>', '<|call|>', '<|return|>', '<|start|>', '<|channel|>']
const MESSAGE = '<|message|>'
const CALL = '<|call|>'
/** Longer than any header. */
const MAX_HEADER_CHARACTERS = 400

/** `header`: before a message's text. `between`: after a message. The others say what the message is. */
type Phase = 'header' | 'between' | 'reasoning' | 'text' | 'call'

/** Splits messages with channels (gpt-oss) into reasoning and answer while the text arrives. */
export class ChannelParser implements ReasoningParser {
  readonly markers: ReadonlySet<number>
  #phase: Phase
  /** A header, the possible beginning of a marker, or white space that may be dropped. */
  #held = ''
  #hasText = false
  #hasReasoning = false
  /** Part of the message has been returned. */
  #hasBegun = false

  constructor(promptEnd: string, markers: ReadonlySet<number>) {
    this.markers = markers
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
    return this.#phase === 'reasoning'
  }

  push(piece: string): SplitText {
    const parted = { reasoning: '', text: '' }
    this.#held += piece
    while (this.#step(parted));
    return parted
  }

  flush(): SplitText {
    const [held, phase] = [this.#held, this.#phase]
    this.#held = ''
    if (phase === 'reasoning') return { reasoning: held.trimEnd(), text: '' }
    // A header without its message, where the limit of tokens cut the answer.
    const isHidden = phase === 'between' || (phase === 'header' && MARKERS.some((marker) => held.includes(marker)))
    return { reasoning: '', text: isHidden ? '' : held }
  }

  /** Processes the next part of the held text. False: it needs more text. */
  #step(parted: { reasoning: string; text: string }): boolean {
    switch (this.#phase) {
      case 'header':
        return this.#readHeader(parted)
      case 'between': {
        const solid = this.#held.trimStart()
        if (solid === '' || MARKERS.some((marker) => marker.startsWith(solid) && marker !== solid)) return false
        const [marker] = MARKERS.filter((own) => solid.startsWith(own))
        const isEnd = marker === '<|end|>' || marker === CALL || marker === '<|return|>'
        this.#held = isEnd ? solid.slice(marker.length) : solid
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

  /** Begins a text without a header, or one that the prompt has begun. */
  #beginText(): void {
    this.#phase = 'text'
    this.#hasBegun = true
  }

  /** Begins a message and returns the part of its header that is text. */
  #begin(header: string): string {
    const channel = /<\|channel\|>\s*(\w+)/.exec(header)?.[1]
    const recipient = /to=([^\s<]+)/.exec(header)?.[1] ?? ''
    this.#hasBegun = false
    if (recipient !== '' && recipient !== 'all') {
      this.#phase = 'call'
      return `<|channel|>commentary to=${recipient} <|constrain|>json${MESSAGE}`
    }
    this.#phase = channel === 'analysis' ? 'reasoning' : 'text'
    return ''
  }

  #readMessage(parted: { reasoning: string; text: string }): boolean {
    const held = this.#held
    const ends = ENDS.map((marker) => ({ marker, at: held.indexOf(marker) })).filter(({ at }) => at >= 0)
    const [end] = ends.toSorted((a, b) => a.at - b.at)
    if (end === undefined) {
      const kept = this.#phase === 'call' ? partialLength(held, ENDS) : partialLengthWithSpace(held, ENDS)
      this.#give(parted, held.slice(0, held.length - kept))
      this.#held = held.slice(held.length - kept)
      return false
    }
    const body = held.slice(0, end.at)
    this.#give(parted, this.#phase === 'call' ? body + CALL : body.trimEnd())
    const isNext = end.marker === '<|start|>' || end.marker === '<|channel|>'
    this.#held = held.slice(end.at + (isNext ? 0 : end.marker.length))
    this.#phase = 'between'
    return true
  }

  #give(parted: { reasoning: string; text: string }, piece: string): void {
    const isReasoning = this.#phase === 'reasoning'
    const shown = this.#hasBegun || this.#phase === 'call' ? piece : piece.trimStart()
    if (shown === '') return
    // A line end separates consecutive messages.
    const isApart = !this.#hasBegun && (isReasoning ? this.#hasReasoning : this.#hasText)
    const text = isApart ? `\n${shown}` : shown
    this.#hasBegun = true
    if (isReasoning) {
      this.#hasReasoning = true
      parted.reasoning += text
    } else {
      this.#hasText = true
      parted.text += text
    }
  }
}

/** Whether the text may still become a header. */
function isHeader(text: string): boolean {
  const solid = text.trimStart()
  const begins = (whole: string) => whole.startsWith(solid) || solid.startsWith(whole)
  const isBegun = solid === '' || ['<|start|>', '<|channel|>', '<|constrain|>', '<|message|>', 'to='].some(begins)
  return isBegun && text.length <= MAX_HEADER_CHARACTERS
}
