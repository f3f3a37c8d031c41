import { expect, test } from 'vitest'
import { LazyList, toJson } from './large-json.ts'

const items = (count: number) => Array.from({ length: count }, (_, i) => ({ i, text: `"${i}\u2028`, none: null }))

test.each([
  ['nothing', {}],
  ['plain values', { a: 1, b: 'x"\n', c: null, d: true, e: undefined, f: [], g: [null, 1.5, 'ü'] }],
  ['many numbers', { ids: Array.from({ length: 10_000 }, (_, i) => i / 3) }],
  ['lists of strings', [['a', 'b'], [], Array.from({ length: 5000 }, String)]],
  ['few and many objects', { few: items(3), many: items(1000), nested: [{ inner: { list: items(40) } }] }],
  ['what is made late', { few: new LazyList([1, 2], (n) => ({ n })), many: new LazyList(items(100), ({ i }) => [i]) }],
  ['nothing made late', { list: new LazyList([], String), text: 'x' }],
])('%s: the same text as at once', async (_, value) => {
  expect(await toJson(value)).toBe(JSON.stringify(value))
})
