/** The variable `loop` of a for statement. */
import { TemplateFault } from './errors.ts'
import { Callable, Holder, Undefined } from './values.ts'
import type { Arguments, Value } from './values.ts'

/** The variable `loop` of turn `i`. @param changed its `changed` @param again calls a recursive loop; null: it is none */
export function loopAt(
  items: readonly Value[],
  i: number,
  depth: number,
  changed: Callable,
  again: ((args: Arguments) => Value) | null,
): Holder {
  const neighbour = (at: number): Value =>
    at >= 0 && at < items.length
      ? (items[at] ?? null)
      : new Undefined(`there is no ${at < i ? 'previous' : 'next'} item`)
  const attribute = (name: string): Value | undefined => {
    switch (name) {
      case 'index':
        return BigInt(i + 1)
      case 'index0':
        return BigInt(i)
      case 'revindex':
        return BigInt(items.length - i)
      case 'revindex0':
        return BigInt(items.length - i - 1)
      case 'first':
        return i === 0
      case 'last':
        return i === items.length - 1
      case 'length':
        return BigInt(items.length)
      case 'depth':
        return BigInt(depth + 1)
      case 'depth0':
        return BigInt(depth)
      case 'previtem':
        return neighbour(i - 1)
      case 'nextitem':
        return neighbour(i + 1)
      case 'changed':
        return changed
      case 'cycle':
        return new Callable('cycle', ({ positional }) => {
          if (positional.length === 0) throw new TemplateFault('no items for cycling given')
          return positional[i % positional.length] ?? null
        })
      default:
        return undefined
    }
  }
  return new Holder('LoopContext', attribute, again)
}
