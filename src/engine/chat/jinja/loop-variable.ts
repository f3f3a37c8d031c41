/** The variable `loop` of a for statement. */
import { TemplateFault } from './errors.ts'
import { Callable, HostObject, Undefined } from './values.ts'
import type { Arguments, Value } from './values.ts'

/**
 * The variable `loop` of turn `i`.
 * @param changed its method of that name
 * @param recurse renders the loop's body for other items; null: the loop is not recursive
 */
export function loopVariable(
  items: readonly Value[],
  i: number,
  depth: number,
  changed: Callable,
  recurse: ((args: Arguments) => Value) | null,
): HostObject {
  const last = items.length - 1
  const attributes = {
    index: BigInt(i + 1),
    index0: BigInt(i),
    revindex: BigInt(items.length - i),
    revindex0: BigInt(last - i),
    first: i === 0,
    last: i === last,
    length: BigInt(items.length),
    depth: BigInt(depth + 1),
    depth0: BigInt(depth),
    previtem: i === 0 ? new Undefined('there is no previous item') : (items[i - 1] ?? null),
    nextitem: i === last ? new Undefined('there is no next item') : (items[i + 1] ?? null),
    changed,
    cycle: new Callable('cycle', ({ positional }) => {
      if (positional.length === 0) throw new TemplateFault('no items for cycling given')
      return positional[i % positional.length] ?? null
    }),
  }
  return new HostObject('LoopContext', attributes, recurse)
}
