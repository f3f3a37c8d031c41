/** The table of families in docs/models.md is current; UPDATE_DOCS=1 rewrites it. */
import { readFileSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { familiesMarkdown } from './families-table.ts'

const PAGE = new URL('../../docs/models.md', import.meta.url)

test('docs/models.md has the families of the code and what checks them', () => {
  const section = /(<!-- families[^\n]*-->\n)[\s\S]*?(<!-- end -->)/
  const text = readFileSync(PAGE, 'utf8')
  expect(text).toMatch(section)
  const current = text.replace(section, (_, start: string, end: string) => `${start}\n${familiesMarkdown()}\n\n${end}`)
  if (process.env['UPDATE_DOCS'] === '1') writeFileSync(PAGE, current)
  expect(readFileSync(PAGE, 'utf8')).toBe(current)
})
