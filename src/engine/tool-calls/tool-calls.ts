/** The function calls of one choice: the special tokens of their format, and a parser that finds them in the text. */
import { randomBytes } from 'node:crypto'
import type { GenerationRequest, ToolCallDelta } from '../request.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ToolCallFormat } from './tool-call-format.ts'
import { markersOf } from './tool-call-formats.ts'
import { functionName, functionParameters } from './tool-call-grammar.ts'
import { ToolCallParser } from './tool-call-parser.ts'

/** Function calls of one choice, at most `maxCalls`. */
export class ToolCalls {
  /** Special tokens whose text the parser needs. */
  readonly markers: ReadonlySet<number>
  readonly #parser: ToolCallParser
  readonly #maxCalls: number

  constructor(markers: ReadonlySet<number>, parser: ToolCallParser, maxCalls: number) {
    this.markers = markers
    this.#parser = parser
    this.#maxCalls = maxCalls
  }

  /** In the middle of a call. */
  get isInCall(): boolean {
    return this.#parser.isInCall
  }

  /** There are as many calls as the request allows: the answer is over. */
  get isComplete(): boolean {
    return this.#parser.numComplete >= this.#maxCalls
  }

  /** Takes text and returns the content in it. Appends pieces of calls to `calls`. */
  parse(text: string, calls: ToolCallDelta[]): string {
    const parsed = this.#parser.push(text)
    calls.push(...parsed.calls)
    return parsed.text
  }

  /** Ends the text: as `parse`, for what was held back. */
  flush(calls: ToolCallDelta[]): string {
    const parsed = this.#parser.flush()
    calls.push(...parsed.calls)
    return parsed.text
  }
}

/** null: the request offers no functions, or the model's format is unknown. */
export function createToolCalls(
  { toolUse }: GenerationRequest,
  format: ToolCallFormat | null,
  tokenizer: Tokenizer,
): ToolCalls | null {
  if (toolUse === undefined || format === null) return null
  const functions = new Map(toolUse.tools.map((tool) => [functionName(tool), functionParameters(tool)]))
  const newId = (name: string, numBefore: number) => newCallId(format, name, numBefore)
  const isSingle = !toolUse.parallel || typeof toolUse.choice === 'object'
  const parser = new ToolCallParser({ format, functions, newId })
  return new ToolCalls(new Set(markersOf(format, tokenizer).keys()), parser, isSingle ? 1 : Infinity)
}

function newCallId({ ids }: ToolCallFormat, name: string, numBefore: number): string {
  if (ids === 'name and number') return `functions.${name}:${numBefore}`
  return ids === 'any' ? `call_${randomBytes(12).toString('hex')}` : randomBytes(5).toString('hex').slice(0, 9)
}
