import { describe, expect, it } from 'vitest'
import type { DocumentFormat } from './blocks.ts'
import { chunkDocument, contextualText, type CountTokens } from './chunk.ts'

/** One token a word, as WordPiece counts frequent ones. */
const countWords: CountTokens = async (texts) => texts.map((text) => text.split(/\s+/).filter(Boolean).length)

const chunk = (text: string, format: DocumentFormat = 'markdown', maxTokens = 20, overlapTokens = 0) =>
  chunkDocument(text, format, { maxTokens, overlapTokens }, countWords)

const GUIDE = `# Guide

Intro sentence one. Intro sentence two.

## Install \`miniserve\`

Run this:

\`\`\`sh
# not a heading
npm ci

npm start
\`\`\`

Setext
------

- first item
- second item

| flag | default |
| ---- | ------- |
| port | 8000 |

### Deep [link](x)

Last.
`

describe('chunks of Markdown', () => {
  it('follow the sections, with headings and offsets in the source', async () => {
    const chunks = await chunk(GUIDE, 'markdown', 40)
    expect(chunks.map(({ headings, text }) => [headings.join(' > '), text])).toEqual([
      ['Guide', 'Intro sentence one. Intro sentence two.'],
      ['Guide > Install miniserve', 'Run this:\n\n```sh\n# not a heading\nnpm ci\n\nnpm start\n```'],
      ['Guide > Setext', '- first item\n- second item\n\nflag: port | default (port): 8000'],
      ['Guide > Setext > Deep link', 'Last.'],
    ])
    for (const { chunk: i, text, start, end } of chunks) if (i !== 2) expect(GUIDE.slice(start, end)).toBe(text)
    expect(chunks.map((c) => c.chunk)).toEqual([0, 1, 2, 3])
    expect(contextualText(chunks[3] ?? { headings: [], text: '' })).toBe('Guide > Setext > Deep link\nLast.')
  })

  it('keep a code block whole, even if the paragraph before it then ends early', async () => {
    const code = '```\n' + 'a b c\n'.repeat(5) + '```'
    const chunks = await chunk(`One two three four five six seven eight nine ten.\n\n${code}\n\nAfter.`, 'markdown', 20)
    expect(chunks.map(({ text }) => text)).toEqual([
      'One two three four five six seven eight nine ten.',
      `${code}\n\nAfter.`,
    ])
  })

  it('cut a code block that is longer than a chunk between its lines', async () => {
    const code = '```\n' + 'a b c d\n'.repeat(20) + '```'
    const chunks = await chunk(code)
    expect(chunks.length).toBeGreaterThan(3)
    for (const { text, numTokens } of chunks) {
      expect(numTokens).toBeLessThanOrEqual(20)
      expect(text).toMatch(/^(```\n)?(a b c d\n?)*(```)?$/)
    }
  })

  it.each([
    [
      '---\ntitle: "My page"\ndate: 2024\n---\n\n# Hours\n\nAt nine.',
      ['My page: date: 2024', 'My page > Hours: At nine.'],
    ],
    ['+++\ntitle = "My page"\n+++\nAt nine.', ['My page: At nine.']],
    ['---\n\nA break before it.\n\n---\n\nAnd after.', [': A break before it.\n\n---\n\nAnd after.']],
    [
      'Day | Hours\n--- | ---\nMonday | 9\nTuesday | 10\n\nafter',
      [': Day: Monday | Hours (Monday): 9\nDay: Tuesday | Hours (Tuesday): 10\n\nafter'],
    ],
    ['Before\n| a | b |\n|---|:-:|\n| x\\|y | 2 |\n- item', [': Before\n\na: x|y | b (x|y): 2\n\n- item']],
    ['| a | b |\n|---|---|\n| `x` | `y` |', [': a: `x` | b (x): `y`']],
    ['# One\n\n## Two\n\n# Three\n\ntext', ['One: ## Two', 'Three: text']],
  ])('%j: front matter, tables and headings without text', async (text, expected) => {
    const chunks = await chunk(text, 'markdown', 60)
    expect(chunks.map(({ headings, text: body }) => `${headings.join(' > ')}: ${body}`)).toEqual(expected)
  })

  it('of a long table name the columns in each chunk', async () => {
    const rows = Array.from({ length: 40 }, (_, i) => `| host${i} | 80${i} |`).join('\n')
    const chunks = await chunk(`| Host | Port |\n|---|---|\n${rows}`, 'markdown', 40)
    expect(chunks.length).toBeGreaterThan(4)
    for (const { text } of chunks)
      for (const line of text.split('\n')) expect(line).toMatch(/^Host: (\S+) \| Port \(\1\): \d+$/)
  })

  it('begin and end where they do with line feeds if lines end with carriage returns alone', async () => {
    const chunks = await chunk(GUIDE.replaceAll('\n', '\r'))
    expect(chunks).toEqual(await chunk(GUIDE))
    expect(chunks.length).toBeGreaterThan(3)
    expect((await chunk('a\r\r\nb\r\n', 'text')).map(({ text }) => text)).toEqual(['a\r\r\nb'])
    expect(await chunk('\r'.repeat(1_000_000), 'text')).toEqual([])
  })

  it('survive an unclosed fence, empty headings and CRLF', async () => {
    expect((await chunk('#\r\n\r\ntext\r\n\r\n~~~\r\ncode\r\n')).map(({ text }) => text)).toEqual([
      'text\r\n\r\n~~~\r\ncode',
    ])
    expect((await chunk('# Only a heading\n')).map(({ text }) => text)).toEqual(['# Only a heading'])
    expect(await chunk('')).toEqual([])
  })
})

describe('chunks of any text', () => {
  const sentences = Array.from({ length: 40 }, (_, i) => `Sentence number ${i} is here.`)

  it.each([0, 5, 12])('have at most maxTokens and repeat at most %i', async (overlap) => {
    const text = sentences.join(' ')
    const chunks = await chunk(text, 'text', 20, overlap)
    for (const { numTokens, text: body, start, end } of chunks) {
      expect(numTokens).toBeLessThanOrEqual(20)
      expect(text.slice(start, end)).toBe(body)
    }
    const repeated = chunks.slice(1).map((c, i) => (chunks[i]?.end ?? 0) - c.start)
    if (overlap === 0) expect(repeated.every((count) => count <= 0)).toBe(true)
    else {
      const words = chunks.slice(1).map((c, i) => text.slice(c.start, chunks[i]?.end).split(' ').length)
      expect(Math.max(...words)).toBeLessThanOrEqual(overlap)
      expect(Math.min(...words)).toBeGreaterThanOrEqual(5)
    }
    // Every sentence is whole in at least one chunk.
    for (const sentence of sentences) expect(chunks.some(({ text: body }) => body.includes(sentence))).toBe(true)
  })

  it('cut an endless sentence between words, and an endless word anywhere', async () => {
    const long = Array.from({ length: 200 }, (_, i) => `w${i}`).join(' ')
    const chunks = await chunk(long, 'text')
    expect(
      chunks
        .map(({ text }) => text)
        .join(' ')
        .split(/\s+/),
    ).toEqual(long.split(' '))
    const byLetter: CountTokens = async (texts) => texts.map((text) => [...text].length)
    const emoji = '😀'.repeat(100)
    const cut = await chunkDocument(emoji, 'text', { maxTokens: 7, overlapTokens: 0 }, byLetter)
    expect(cut.map(({ text }) => text).join('')).toBe(emoji)
    for (const { text, numTokens } of cut) {
      expect(numTokens).toBeLessThanOrEqual(7)
      expect(text).not.toMatch(/\p{Surrogate}/u)
    }
  })

  it('use at most a quarter of a chunk for headings, the innermost first', async () => {
    const headings = [1, 2, 3, 4].map((level) => `${'#'.repeat(level)} heading of level ${level}`).join('\n')
    const [first] = await chunk(`${headings}\n\nbody`, 'markdown', 24)
    expect(first?.headings).toEqual(['heading of level 4'])
  })
})

describe('chunks of HTML', () => {
  const html = `<!doctype html><html><head><title>T</title><style>p{}</style></head><body>
    <nav>menu</nav><h1>Top &amp; first</h1><p>One <b>bold</b> word&#33; <script>if (a < b) {}</script>Next.</p>
    <h2>Lists</h2><p>Intro:</p><ul><li>alpha</li><li><p>beta</p></li></ul>
    <table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td>1</td></tr></table>
    <pre><code>x  = 1\n  y</code></pre><p>bad &nosuch; <unclosed`

  it('contain what a reader sees', async () => {
    const chunks = await chunk(html, 'html', 40)
    expect(chunks.map(({ headings, text }) => [headings.join(' > '), text])).toEqual([
      ['T', 'menu'],
      ['T > Top & first', 'One bold word! Next.'],
      [
        'T > Top & first > Lists',
        'Intro:\n\n- alpha\n- beta\n\nk: a | v (a): 1\n\nx  = 1\n  y\n\nbad &nosuch;\n\n<unclosed',
      ],
    ])
    const [, first] = chunks
    expect(html.slice(first?.start, first?.end)).toContain('bold')
    expect(html.slice(first?.start, first?.end)).not.toContain('<h1>')
  })

  it('never throw', async () => {
    for (const bad of [
      '<',
      '<p',
      '<!--',
      '</p></p>',
      '<h1><h2>x',
      '<pre>',
      '&#x110000;&#55296;a',
      '<li></li>',
      '<a b="',
    ]) {
      await chunk(bad, 'html')
    }
  })
})

describe('input made to be slow', () => {
  it('a word of a million characters that is one token becomes chunks of bounded length', async () => {
    const word = 'x'.repeat(1_000_000)
    let longest = 0
    const count: CountTokens = async (texts) => {
      longest = Math.max(longest, ...texts.map(({ length }) => length))
      return countWords(texts)
    }
    for (const format of ['text', 'markdown', 'html'] as const) {
      const chunks = await chunkDocument(`a ${word} b`, format, { maxTokens: 20, overlapTokens: 5 }, count)
      expect(chunks.map(({ text }) => text).join('')).toContain('x'.repeat(1000))
      expect(Math.max(...chunks.map(({ text }) => text.length))).toBeLessThanOrEqual(20 * 16)
      expect(chunks.reduce((sum, { text }) => sum + text.replaceAll(/[^x]/g, '').length, 0)).toBe(1_000_000)
    }
    expect(longest).toBeLessThanOrEqual(20 * 16)
  })

  it.each(['markdown', 'text', 'html'] as const)(
    'a %s of one long paragraph is counted in short calls',
    async (format) => {
      let longest = 0
      const count: CountTokens = async (texts) => {
        longest = Math.max(
          longest,
          texts.reduce((sum, text) => sum + text.length, 0),
        )
        return countWords(texts)
      }
      const source = Array.from({ length: 60_000 }, (_, i) => `w${i}`).join(' ')
      const chunks = await chunkDocument(source, format, { maxTokens: 100, overlapTokens: 0 }, count)
      expect(chunks.map(({ text }) => text.trim()).join(' ')).toBe(source)
      if (format !== 'html') for (const { text, start, end } of chunks) expect(source.slice(start, end)).toBe(text)
      expect(longest).toBeLessThanOrEqual(32 * 1024)
    },
  )

  it('blank lines and consecutive long words do not make a chunk long', async () => {
    const gap = await chunk(`one.${'\n'.repeat(5000)}two.`, 'text')
    expect(gap.map(({ text }) => text)).toEqual(['one.', 'two.'])
    const words = Array.from({ length: 30 }, () => 'y'.repeat(200)).join('. ')
    for (const { text } of await chunk(words, 'text', 20, 10)) expect(text.length).toBeLessThanOrEqual(20 * 16)
  })

  it.each([
    ['<a', '<a<a'],
    ['<a"', '<a"<a"'],
  ])('HTML that consists only of %s is text, read in one pass', async (part, text) => {
    const chunks = await chunk(part.repeat(100_000), 'html', 20)
    expect(chunks[0]?.text).toContain(text)
    expect(chunks.reduce((sum, c) => sum + c.text.length, 0)).toBe(part.length * 100_000)
  })

  it('white space and empty cells inside HTML take linear time', async () => {
    const blank = ' '.repeat(200_000)
    expect((await chunk(`<pre>a${blank}b</pre>`, 'html')).map(({ text }) => text.trim())).toEqual(['a', 'b'])
    const row = await chunk(
      `<table><tr>${'<td></td>'.repeat(50_000)}<td>z</td></tr><tr><td>k</td><td></td></tr>`,
      'html',
    )
    expect(row.at(-1)?.text).toMatch(/z\nk$/)
  })

  it('an open quote hides neither what follows nor the tags in it', async () => {
    const chunks = await chunk('<p title="a>b">One.</p><p title="x>Two.</p><h2>Head</h2><p>Three.</p>', 'html')
    expect(chunks.map(({ headings, text }) => [headings.join(), text])).toEqual([
      ['', 'One.\n\nTwo.'],
      ['Head', 'Three.'],
    ])
  })

  it.each(['\u2028', '\v', ' ', '\t', ' #', '['])(
    'a heading full of %j is text, and a short one a heading',
    async (part) => {
      const long = await chunk(`# a${part.repeat(30_000)}b\n\ntext`, 'markdown')
      expect(long[0]?.headings).toEqual([])
      expect(long.at(-1)?.text).toContain('text')
      const [short] = await chunk(`# a${part.repeat(20)}b ##\n\ntext`, 'markdown', 400)
      expect(short?.headings).toEqual([`a${part.repeat(20)}b`])
    },
  )

  it('a paragraph that is too long for a heading stays a paragraph', async () => {
    const paragraph = 'word '.repeat(60).trim()
    const chunks = await chunk(`# Top\n\n${paragraph}\n---\n\nafter`, 'markdown', 100)
    expect(chunks.map(({ headings, text }) => [headings.join(), text])).toEqual([['Top', `${paragraph}\n---\n\nafter`]])
  })
})
