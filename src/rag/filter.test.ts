import { describe, expect, it } from 'vitest'
import { matchesFilter, parseFilter } from './filter.ts'

const document = {
  id: 'a/b.md',
  source: 'https://example.org/b',
  metadata: { year: 2024, lang: 'en', tags: ['gpu', 'web'], draft: false, note: null },
}
const matches = (filter: unknown) => matchesFilter(document, parseFilter(filter, 'rag.filter'))

describe('metadata filters', () => {
  it.each([
    [{}],
    [{ lang: 'en' }],
    [{ lang: ['de', 'en'] }],
    [{ tags: 'web' }],
    [{ tags: ['web', 'cpu'] }],
    [{ year: { gte: 2024, lt: 2025 } }],
    [{ id: { prefix: 'a/' } }],
    [{ source: 'https://example.org/b' }],
    [{ note: null }],
    [{ missing: { exists: false } }],
    [{ missing: { ne: 'x' } }],
    [{ tags: { ne: 'cpu' } }],
  ])('%j matches', (filter) => expect(matches(filter)).toBe(true))

  it.each([
    [{ lang: 'de' }],
    [{ lang: 'en', year: 2023 }],
    [{ lang: [] }],
    [{ tags: { ne: 'web' } }],
    [{ year: { gt: 2024 } }],
    [{ year: '2024' }],
    [{ year: { gt: '2000' } }],
    [{ missing: 'x' }],
    [{ missing: { prefix: '' } }],
    [{ draft: { exists: false } }],
    [{ constructor: { exists: true } }],
    [JSON.parse('{"__proto__": "x"}')],
    [JSON.parse('{"__proto__": {"exists": true}}')],
  ])('%j does not', (filter) => expect(matches(filter)).toBe(false))

  it('orders texts by code point, as databases do', () => {
    const texts = ['', 'a', 'aa', 'b', 'ä', '\uE000', '\uFFFD', '\u{1F600}', '\u{1F601}']
    for (const [i, text] of texts.entries()) {
      const document = { id: text, source: '', metadata: {} }
      const after = texts.filter((other) => matchesFilter(document, { id: { lt: other } }))
      expect(after).toEqual(texts.slice(i + 1))
      expect(texts.filter((other) => matchesFilter(document, { id: { gte: other } }))).toEqual(texts.slice(0, i + 1))
    }
  })

  it.each([
    ['text', 'rag.filter:'],
    [{ year: { around: 3 } }, 'rag.filter.year'],
    [{ year: { gt: true } }, 'rag.filter.year'],
    [{ year: {} }, 'rag.filter.year'],
    [{ tags: [{}] }, 'rag.filter.tags'],
    [{ lang: 'a\0' }, 'rag.filter.lang'],
    [{ lang: { prefix: '\ud800' } }, 'rag.filter.lang'],
    [{ 'a\0': 1 }, 'rag.filter:'],
  ])('refuses %j by name', (filter, name) => {
    expect(() => parseFilter(filter, 'rag.filter')).toThrow(name)
  })
})
