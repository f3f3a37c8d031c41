import { expect, it } from 'vitest'
import { csvBlocks } from './csv.ts'

const read = (text: string) => [...csvBlocks(text)].filter((block) => block !== null)

it.each([
  ['a,b\n1,"x ""q"", y"\n2,\n', ['a: 1 | b (1): x "q", y\na: 2']],
  ['Dienst;Port\r\nhttp;80\r\n', ['Dienst: http | Port (http): 80']],
  ['a\tb\n"two\nlines"\t2', ['a: two lines | b (two lines): 2']],
  ['one\ntwo\n', ['one\ntwo']],
  ['only,names', ['only | names']],
  ['a,b\n"never closed,\n1', ['a: never closed, 1']],
  ['Name|Port\nhttp|80', ['Name: http | Port (http): 80']],
  ['sep=;\r\nName;Port\r\nhttp;80', ['Name: http | Port (http): 80']],
  ['Name,Port\rhttp,80\r', ['Name: http | Port (http): 80']],
  ['1,2\n3,4.5\n', ['1 | 2\n3 | 4.5']],
  ['', []],
])('%j as rows that name their columns', (text, expected) => {
  expect(read(text).map((block) => block.text)).toEqual(expected)
})

it('rows of a long table have offsets, with a few hundred rows per block', () => {
  const text = `n,square\n${Array.from({ length: 1000 }, (_, i) => `${i},${i * i}`).join('\n')}`
  const blocks = read(text)
  expect(blocks.length).toBe(4)
  const rows = blocks.flatMap((block) => block.rows ?? [])
  expect(text.slice(rows[999]?.start, rows[999]?.end)).toBe('999,998001')
})

it('column names make no block longer than the longest string', () => {
  const names = Array.from({ length: 900 }, (_, i) => `${i}`.padEnd(80, 'n'))
  const blocks = read(`${names.join()}\n${`${'v,'.repeat(899)}v\n`.repeat(100)}`)
  expect(blocks.flatMap((block) => block.rows).length).toBe(100)
  for (const { text } of blocks) expect(text.length).toBeLessThan(1.5 * 1024 * 1024)
  const [row] = read(`a,b\n${'r'.repeat(60)}${',v'.repeat(100_000)}`)
  expect(row?.text.length).toBe(60 + 100_000 * ' | v'.length)
})

it('a caller can interrupt the reader at empty rows', () => {
  expect([...csvBlocks('\n'.repeat(1000))].length).toBeGreaterThan(1000)
})
