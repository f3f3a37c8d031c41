/** What is asked of an output and cannot be had: why, in words that follow the name of the field or the place in it. */
export class Unenforceable extends Error {
  override readonly name: string = 'Unenforceable'
}

/** What no value can be: an alternative of this kind is none. */
export class Unsatisfiable extends Unenforceable {
  override readonly name = 'Unsatisfiable'
}
