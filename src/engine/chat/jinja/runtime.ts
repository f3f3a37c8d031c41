/** The limits of a rendering, and calls of template functions. */
import { TemplateFault } from './errors.ts'
import { Callable, HostObject, Undefined, typeName } from './values.ts'
import type { Arguments, Value } from './values.ts'

/** Limit on statements and expressions per rendering. A long conversation takes some ten thousand. */
const MAX_STEPS = 2_000_000
const MAX_CHARACTERS = 64 * 1024 * 1024

/** Steps and characters that one rendering may use. @throws TemplateFault above the limit */
export class Budget {
  #numSteps = 0
  #numCharacters = 0

  step(count = 1): void {
    this.#numSteps += count
    if (this.#numSteps > MAX_STEPS) throw new TemplateFault(`it takes more than ${MAX_STEPS} steps`)
  }

  /** Counts characters of text that is about to be created, or has been. */
  spend(numCharacters: number): void {
    this.#numCharacters += numCharacters
    if (this.#numCharacters > MAX_CHARACTERS)
      throw new TemplateFault(`it makes more than ${MAX_CHARACTERS} characters of text`)
  }
}

/** The part of the interpreter that filters, tests and methods use. */
export interface Runtime {
  readonly budget: Budget
  filter(name: string, value: Value, args: Arguments): Value
  test(name: string, value: Value, args: Arguments): boolean
  attribute(of: Value, name: string): Value
  /** As `attribute`, without items. */
  ownAttribute(of: Value, name: string): Value
  item(of: Value, key: Value): Value
}

/** A filter: `value | name(args)`. */
export type Filter = (value: Value, args: Arguments, runtime: Runtime) => Value

/** Calls a value. @throws TemplateFault if it cannot be called */
export function call(callee: Value, args: Arguments): Value {
  if (callee instanceof Callable) return callee.call(args)
  if (callee instanceof HostObject && callee.call !== null) return callee.call(args)
  if (callee instanceof Undefined) return callee.fail()
  throw new TemplateFault(`'${typeName(callee)}' object is not callable`)
}

/** Binds arguments to parameter names; undefined for a missing one. @throws TemplateFault for surplus arguments */
export function bindArguments<const Names extends readonly string[]>(
  what: string,
  names: Names,
  { positional, named }: Arguments,
): { readonly [K in Names[number]]: Value | undefined } {
  if (positional.length > names.length) throw new TemplateFault(`${what}() takes at most ${names.length} arguments`)
  const bound: Record<string, Value | undefined> = {}
  for (const [i, name] of names.entries()) bound[name] = positional[i]
  for (const [name, value] of named) {
    if (!names.includes(name)) throw new TemplateFault(`${what}() got an unexpected argument '${name}'`)
    bound[name] = value
  }
  return bound as { readonly [K in Names[number]]: Value | undefined }
}
