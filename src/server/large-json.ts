/** JSON of responses that may be large, written in time slices so that the streams of other requests are not delayed. */
import { Slice } from '../rag/slice.ts'

/** Numbers or strings that are serialised at a time, and items of a lazy list. */
const NUM_VALUES = 4096
const NUM_ITEMS = 16

export const JSON_HEADERS = { 'content-type': 'application/json' } as const

/** A list whose items are computed when they are written. */
export class LazyList<T> {
  readonly #items: readonly T[]
  readonly #describe: (item: T) => unknown

  constructor(items: readonly T[], describe: (item: T) => unknown) {
    this.#items = items
    this.#describe = describe
  }

  get length(): number {
    return this.#items.length
  }

  slice(from: number, to: number): unknown[] {
    return this.#items.slice(from, to).map(this.#describe)
  }

  toJSON(): unknown[] {
    return this.#items.map(this.#describe)
  }
}

/** Like JSON.stringify, in time slices. `value` is plain data: objects, arrays, lazy lists, strings, numbers, booleans, null. */
export async function toJson(value: unknown): Promise<string> {
  const slice = new Slice()
  let text = ''
  for (const piece of piecesOf(value)) {
    text += piece
    if (slice.isOver) await slice.end()
  }
  return text
}

/** Pieces of the JSON text. Each takes a small part of a millisecond. */
export function* piecesOf(value: unknown): Generator<string, void, void> {
  if (value instanceof LazyList) yield* chunksOf(value, NUM_ITEMS)
  else if (Array.isArray(value)) yield* itemsOf(value)
  else if (isObject(value)) yield* fieldsOf(value)
  else yield JSON.stringify(value)
}

function* fieldsOf(object: Readonly<Record<string, unknown>>): Generator<string> {
  let open = '{'
  for (const [key, field] of Object.entries(object)) {
    if (field === undefined) continue
    yield `${open}${JSON.stringify(key)}:`
    yield* piecesOf(field)
    open = ','
  }
  yield open === '{' ? '{}' : '}'
}

function* itemsOf(items: readonly unknown[]): Generator<string> {
  if (isObject(items[0]) || Array.isArray(items[0])) yield* eachOf(items)
  else yield* chunksOf(items, NUM_VALUES)
}

function* chunksOf(items: readonly unknown[] | LazyList<unknown>, count: number): Generator<string> {
  yield '['
  for (let at = 0; at < items.length; at += count) {
    if (at > 0) yield ','
    yield JSON.stringify(items.slice(at, at + count)).slice(1, -1)
  }
  yield ']'
}

function* eachOf(items: readonly unknown[]): Generator<string> {
  yield '['
  for (const [i, item] of items.entries()) {
    if (i > 0) yield ','
    yield* piecesOf(item)
  }
  yield ']'
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
