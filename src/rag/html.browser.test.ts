/** The words of real pages, held against what Chromium shows of them. Under MINISERVE_TEST_LEVEL=full, with Debian's documentation packages. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasChromium, launchChromium } from '../../test/observability/chromium.ts'
import { htmlBlocks } from './html.ts'

/** Folders of the packages python3.11-doc, git-doc, debian-handbook, developers-reference, debian-policy, postgresql-doc-15, apache2-doc. */
const FOLDERS = [
  'python3.11/html',
  'git/html',
  'debian-handbook/html/en-US',
  'developers-reference',
  'debian-policy',
  'postgresql-doc-15/html',
  'apache2-doc/manual/en',
].map((name) => join('/usr/share/doc', name))
/** Every so many of a folder's pages. */
const STRIDE = 30
const MIN_SHARE = 0.999

const pagesOf = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.html'))
    .toSorted()
    .filter((_, i) => i % STRIDE === 0)
    .map((name) => join(folder, name))

const wordsOf = (text: string): readonly string[] =>
  text
    .replaceAll('\u00ad', '')
    .normalize('NFKC')
    .match(/[\p{L}\p{N}]+/gu) ?? []

/** Words of blocks and of the headings above them, each heading once. */
function countWords(html: string): Map<string, number> {
  const counts = new Map<string, number>()
  const add = (text: string): void => {
    for (const word of wordsOf(text)) counts.set(word, (counts.get(word) ?? 0) + 1)
  }
  const seen = new Set<string>()
  for (const { text, headings } of htmlBlocks(html)) {
    add(text)
    const path = headings.join('\n')
    if (!seen.has(path)) for (const heading of headings) add(heading)
    seen.add(path)
  }
  return counts
}

const folders = FOLDERS.filter((folder) => existsSync(folder))
const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full'

describe.runIf(isFull && hasChromium && folders.length > 0)('pages of real documentation', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launchChromium()
  })
  afterAll(() => browser.close())

  it.each(folders)('%s: nearly every word that a reader sees is kept', { timeout: 120_000 }, async (folder) => {
    const page = await browser.newPage()
    let numWords = 0
    let numLost = 0
    for (const path of pagesOf(folder)) {
      const html = readFileSync(path, 'utf8')
      // Without what it would fetch: the words are the same, and scripts change nothing.
      const alone = html.replaceAll(/<link\b[^>]*>/gi, '').replaceAll(/<script\b[^>]*\bsrc=[^>]*>/gi, '<script>')
      await page.setContent(alone, { waitUntil: 'domcontentloaded' })
      const kept = countWords(html)
      for (const word of wordsOf(await page.locator('body').innerText())) {
        const left = kept.get(word) ?? 0
        numWords++
        if (left > 0) kept.set(word, left - 1)
        else numLost++
      }
    }
    expect(numWords).toBeGreaterThan(100)
    expect(1 - numLost / numWords).toBeGreaterThanOrEqual(MIN_SHARE)
  })
})
