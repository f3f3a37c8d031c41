/** One call in the making, read character by character, so that its arguments can be passed on, as JSON, while they are written. */
import { JsonCallScanner } from './json-call-scanner.ts'
import { LiteralCallScanner } from './literal-call-scanner.ts'
import { NamedCallScanner } from './named-call-scanner.ts'
import { TaggedCallScanner } from './tagged-call-scanner.ts'
import type { CallBody } from './tool-call-format.ts'

export interface CallScanner {
  /** The function's name, once it is known. */
  readonly name: string | null
  readonly isDone: boolean
  /** There are arguments, or the beginning of them. */
  readonly hasArguments: boolean
  /** Between the brackets of arguments. */
  readonly isInArguments: boolean
  /** The arguments since the last call of this. */
  takeArguments(): string
  /** Takes the next character. False: it does not belong to a call; nothing may be pushed any more. */
  push(character: string): boolean
}

/** `parametersOf`: the schema of a function's arguments. */
export function createScanner(body: CallBody, parametersOf: (name: string) => unknown): CallScanner {
  switch (body.kind) {
    case 'object':
      return new JsonCallScanner()
    case 'named':
      return new NamedCallScanner(body)
    case 'tagged':
      return new TaggedCallScanner(body, parametersOf)
    case 'literal':
      return new LiteralCallScanner(body)
  }
}
