/** A constraint that cannot be enforced. The message gives the reason and follows the name of the field or the path. */
export class Unenforceable extends Error {
  override readonly name: string = 'Unenforceable'
}

/** A constraint that no value satisfies. As an alternative it is dropped. */
export class Unsatisfiable extends Unenforceable {
  override readonly name = 'Unsatisfiable'
}
