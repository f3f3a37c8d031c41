/** The calls of one choice: what its format's marks are in the vocabulary, and its text on the way to content and calls. */
import { randomBytes } from 'node:crypto'
import type { GenerationRequest, ToolCallDelta } from '../request.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { ToolCallFormat } from './tool-call-format.ts'
import { marksOf } from './tool-call-formats.ts'
import { functionName, functionParameters } from './tool-call-grammar.ts'
import { ToolCallParser } from './tool-call-parser.ts'

/** Function calls of one choice, at most `maxCalls`. */
export class ToolCalls {
  /** Tokens whose text counts, special or not. */
  readonly marks: ReadonlySet<number>
  readonly #parser: ToolCallParser
  readonly #maxCalls: number

  constructor(marks: ReadonlySet<number>, parser: ToolCallParser, maxCalls: number) {
    this.marks = marks
    this.#parser = parser
    this.#maxCalls = maxCalls
  }

  /** In the middle of a call. */
  get isInCall(): boolean {
    return this.#parser.isInCall
  }

  /** There are as many calls as were asked for: the answer is over. */
  get isComplete(): boolean {
    return this.#parser.numComplete >= this.#maxCalls
  }

  /** Takes text; what of it is content. Pieces of calls are added to `calls`. */
  parse(text: string, calls: ToolCallDelta[]): string {
    const parsed = this.#parser.push(text)
    calls.push(...parsed.calls)
    return parsed.text
  }

  /** The end: likewise for what was held back. */
  flush(calls: ToolCallDelta[]): string {
    const parsed = this.#parser.flush()
    calls.push(...parsed.calls)
    return parsed.text
  }
}

/** null: the request has no functions, or how the model writes calls is not known. */
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
  return new ToolCalls(new Set(marksOf(format, tokenizer).keys()), parser, isSingle ? 1 : Infinity)
}

function newCallId({ ids }: ToolCallFormat, name: string, numBefore: number): string {
  if (ids === 'name and number') return `functions.${name}:${numBefore}`
  return ids === 'any' ? `call_${randomBytes(12).toString('hex')}` : randomBytes(5).toString('hex').slice(0, 9)
}
