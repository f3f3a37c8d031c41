/** JSON of answers that may be large, written in slices: other requests' streams are on this thread too. */
import { Slice } from '../rag/slice.ts'

/** Numbers or strings serialised in one go, and objects or arrays. */
const NUM_VALUES = 4096
const NUM_ITEMS = 16

export const JSON_HEADERS = { 'content-type': 'application/json' } as const

/** As JSON.stringify. `value` is plain data: objects, arrays, strings, numbers, booleans, null. */
export async function toJson(value: unknown): Promise<string> {
  const slice = new Slice()
  let text = ''
  for (const piece of piecesOf(value)) {
    text += piece
    if (slice.isOver) await slice.end()
  }
  return text
}

/** Pieces of the JSON text, each a small part of a millisecond's work. */
function* piecesOf(value: unknown): Generator<string> {
  if (Array.isArray(value)) yield* itemsOf(value)
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
  const isFlat = !isObject(items[0]) && !Array.isArray(items[0])
  const count = isFlat ? NUM_VALUES : NUM_ITEMS
  yield '['
  for (let at = 0; at < items.length; at += count) {
    if (at > 0) yield ','
    // Few of them may each be large: the answers of a request, the vectors of its texts.
    if (!isFlat && items.length <= NUM_ITEMS) yield* eachOf(items)
    else yield JSON.stringify(items.slice(at, at + count)).slice(1, -1)
  }
  yield ']'
}

function* eachOf(items: readonly unknown[]): Generator<string> {
  for (const [i, item] of items.entries()) {
    if (i > 0) yield ','
    yield* piecesOf(item)
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
