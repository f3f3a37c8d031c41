/** What reads one call, character by character, so that its arguments can be passed on, as JSON, while the model writes them. */
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
