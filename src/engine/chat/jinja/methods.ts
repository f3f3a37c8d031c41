/** Methods of values. */
import { TemplateFault } from './errors.ts'
import { bindArguments } from './runtime.ts'
import type { Runtime } from './runtime.ts'
import { refusesMethod, STRING_METHODS } from './string-methods.ts'
import { Callable, Dict, equals, isList, Tuple, typeName } from './values.ts'
import type { Arguments, Value } from './values.ts'

/** A method of a value by its name; undefined: it has none of that name. */
export function methodOf(value: Value, name: string, runtime: Runtime): Callable | undefined {
  if (typeof value === 'string') {
    const method = STRING_METHODS.get(name)
    return method && new Callable(name, (args) => method(value, args, runtime))
  }
  if (refusesMethod(value, name)) {
    return new Callable(name, () => {
      throw new TemplateFault(`access to attribute '${name}' of '${typeName(value)}' object is unsafe`)
    })
  }
  if (value instanceof Dict) {
    const method = DICT_METHODS.get(name)
    return method && new Callable(name, (args) => method(value, args))
  }
  const items = isList(value) ? value : value instanceof Tuple ? value.items : null
  const method = items === null ? undefined : LIST_METHODS.get(name)
  return method && items !== null ? new Callable(name, (args) => method(items, args)) : undefined
}

type Method<T> = (value: T, args: Arguments) => Value

const DICT_METHODS: ReadonlyMap<string, Method<Dict>> = new Map<string, Method<Dict>>([
  [
    'get',
    (dict, args) => {
      const { key = null, default: fallback = null } = bindArguments('get', ['key', 'default'], args)
      return dict.get(key) ?? (dict.has(key) ? null : fallback)
    },
  ],
  ['items', (dict) => dict.entries().map(([key, value]) => new Tuple([key, value]))],
  ['keys', (dict) => dict.keys()],
  ['values', (dict) => dict.values()],
  ['copy', (dict) => new Dict(dict.entries())],
])

const LIST_METHODS: ReadonlyMap<string, Method<readonly Value[]>> = new Map<string, Method<readonly Value[]>>([
  [
    'index',
    (items, args) => {
      const { value = null } = bindArguments('index', ['value'], args)
      const at = items.findIndex((item) => equals(item, value))
      if (at < 0) throw new TemplateFault('the value is not in the list')
      return BigInt(at)
    },
  ],
  [
    'count',
    (items, args) => {
      const { value = null } = bindArguments('count', ['value'], args)
      return BigInt(items.filter((item) => equals(item, value)).length)
    },
  ],
  ['copy', (items) => [...items]],
])
