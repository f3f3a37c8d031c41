/** AsciiDoc, reStructuredText, Org, and HTML inside Markdown: sections above blocks, rows that name their columns. */
import { expect, it } from 'vitest'
import { asciidocBlocks } from './asciidoc.ts'
import type { ReadStep } from './blocks.ts'
import { markdownBlocks } from './markdown.ts'
import { orgBlocks } from './org.ts'
import { plainBlocks } from './plain.ts'
import { restructuredTextBlocks } from './restructured-text.ts'

/** A document as "heading > heading: text", block by block; rows and paragraphs are where they say. */
function read(blocksOf: (text: string) => Iterable<ReadStep>, lines: readonly string[]): string[] {
  const source = lines.join('\n')
  const blocks = [...blocksOf(source)].filter((block) => block !== null)
  for (const { text, start, end, rows } of blocks) {
    if (rows) for (const row of rows) expect(source.slice(row.start, row.end).length).toBeGreaterThan(0)
    else expect(source.slice(start, end)).toContain(text)
  }
  return blocks.map(({ headings, text }) => (headings.length > 0 ? `${headings.join(' > ')}: ${text}` : text))
}

const PORTS = 'Service: http | Port (http): 80\nService: ssh | Port (ssh): 22'

it.each([
  [
    [
      '= Guide',
      ':toc:',
      '',
      '== Hours',
      '[[open]]',
      'Opens at nine.',
      '',
      '----',
      'run -x',
      '',
      'stop',
      '----',
      '// no',
      '=== Rest',
      'Closed.',
    ],
    ['Guide > Hours: Opens at nine.', 'Guide > Hours: run -x\n\nstop', 'Guide > Hours > Rest: Closed.'],
  ],
  [['== A', '|===', '|Service |Port', '', '|http |80', '|ssh', '|22', '|==='], [`A: ${PORTS}`]],
  [['[cols="1,1",options="header"]', '|===', '|Service', '|Port', 'a|http', '|80', '|ssh', '|22', '|==='], [PORTS]],
  [['[%header,format=csv]', '|===', 'Service,Port', 'http,80', 'ssh,22', '|==='], [PORTS]],
  [['|===', '|a |b \\| c', '|d |e', 'f', '|==='], ['a | b | c\nd | e f']],
  [['|===', '|Service|Port', '', '|http|80', '|ssh|22', '|==='], [PORTS]],
  [['|===', 'never closed'], ['never closed']],
  [
    [
      'Guide',
      '=====',
      '',
      'Hours',
      '------',
      'At nine.',
      '',
      'Rest',
      '~~~~',
      'Closed.',
      '',
      '.Run',
      '----',
      'x',
      '----',
    ],
    [
      'Guide > Hours: At nine.',
      'Guide > Hours > Rest: Closed.',
      'Guide > Hours > Rest: .Run',
      'Guide > Hours > Rest: x',
    ],
  ],
  [
    ['Two lines', 'of text', '-------', 'x', '-------', 'Other words', '----', 'y', '----'],
    ['Two lines\nof text', 'x', 'Other words', 'y'],
  ],
  [
    ['Text.', '', '////', 'kept', '', '== A', '', 'Too.'],
    ['Text.', 'kept', 'A: Too.'],
  ],
  [
    ['Text.', '', '////', 'hidden', '////', 'Too.'],
    ['Text.', 'Too.'],
  ],
  [
    ['* one', '* two', '', 'NOTE: Mind.', '', '|===', '|never |closed'],
    ['* one\n* two', 'NOTE: Mind.', 'never | closed'],
  ],
])('AsciiDoc %j', (lines, expected) => {
  expect(read(asciidocBlocks, lines)).toEqual(expected)
})

it.each([
  [
    [
      '=====',
      'Guide',
      '=====',
      '',
      'Hours',
      '-----',
      'Opens at nine::',
      '',
      '  run',
      '',
      '  stop',
      '',
      'Rest',
      '~~~~',
      'Closed.',
      '',
      'Fees',
      '----',
      'Five.',
    ],
    [
      'Guide > Hours: Opens at nine::',
      'Guide > Hours:   run\n\n  stop',
      'Guide > Hours > Rest: Closed.',
      'Guide > Fees: Five.',
    ],
  ],
  [
    ['======= ====', 'Service Port', '======= ====', 'http    80', 'ssh     22', '======= ====', '', 'After.'],
    [PORTS, 'After.'],
  ],
  [['=== ===', 'a   b', '    c', 'd   e', '=== ==='], ['a | b c\nd | e']],
  [
    [
      '+---------+------+',
      '| Service | Port |',
      '+=========+======+',
      '| http    | 80   |',
      '+---------+------+',
      '| ssh     | 22   |',
      '+---------+------+',
    ],
    [PORTS],
  ],
  [
    ['+----------+------+', '| サービス | Port |', '+==========+======+', '| http     | 80   |', '+----------+------+'],
    ['サービス: http | Port (http): 80'],
  ],
  [
    ['+---+---+', '| a  | b |', '+---+---+', '|  c| d |', '+---+---+', '| e| f  |', '+---+---+'],
    ['a | b\nc | d\ne | f'],
  ],
  [['  +---+---+', '| a | b |', '  +---+---+'], ['a | b']],
  [['.. list-table::', '', '   no list'], ['no list'.padStart(10)]],
  [['+---+---+', '| both  |', '+---+---+', '| a | b |', '|   | c |', '+---+---+'], ['both\na | b c']],
  [
    [
      '.. list-table:: Ports',
      '   :header-rows: 1',
      '',
      '   * - Service',
      '     - Port',
      '   * - http',
      '     - 80',
      '   * - ssh',
      '     - 22',
    ],
    ['Ports', PORTS],
  ],
  [
    ['.. csv-table:: Ports', '   :header: "Service", "Port"', '', '   "http", 80', '   "ssh", 22', '', 'After.'],
    ['Ports', PORTS, 'After.'],
  ],
  [
    [
      '.. _target:',
      '',
      '.. note:: Mind the gap.',
      '',
      '.. code-block:: sh',
      '   :caption: x',
      '',
      '   run',
      '',
      'Text.',
    ],
    ['Mind the gap.', '   run', 'Text.'],
  ],
  [['Text above', '----------', '', '=== ==='], ['Text above']],
])('reStructuredText %j', (lines, expected) => {
  expect(read(restructuredTextBlocks, lines)).toEqual(expected)
})

it.each([
  [
    [
      '#+TITLE: Guide',
      '',
      '* Hours  :tag:',
      ':PROPERTIES:',
      ':ID: 1',
      ':END:',
      'Opens at nine.',
      '** Rest',
      '#+BEGIN_SRC sh',
      'run',
      '#+END_SRC',
      'Closed.',
    ],
    ['Guide > Hours: Opens at nine.', 'Guide > Hours > Rest: run', 'Guide > Hours > Rest: Closed.'],
  ],
  [
    ['| Service | Port |', '|---------+------|', '| http | 80 |', '| ssh | 22 |', 'After.'],
    [PORTS, 'After.'],
  ],
  [['| a | b |', '| c | d |'], ['a | b\nc | d']],
  [
    ['# comment', '#+begin_quote', 'Said.', '#+end_quote', ':NOT: a drawer'],
    ['Said.', ':NOT: a drawer'],
  ],
  [['#+begin_comment', 'kept'], ['kept']],
  [['#+begin_comment', 'hidden', '#+end_comment', 'Text.'], ['Text.']],
])('Org %j', (lines, expected) => {
  expect(read(orgBlocks, lines)).toEqual(expected)
})

it.each([
  [
    ['# A', '', '<table>', '<tr><th>Service<th>Port', '', '<tr><td>http<td>80<tr><td>ssh<td>22', '</table>', 'After.'],
    [`A: ${PORTS}`, 'A: After.'],
  ],
  [['<table><tr><td><h2>A</h2>', '</table>'], ['<table><tr><td><h2>A</h2>\n</table>']],
  [['<table><tr><td>never closed'], ['<table><tr><td>never closed']],
])('HTML tables in Markdown %j', (lines, expected) => {
  expect(read(markdownBlocks, lines)).toEqual(expected)
})

it('documents made to be slow are read quickly', () => {
  const many = (text: string): string => text.repeat(10_000)
  const blocksOf = [asciidocBlocks, restructuredTextBlocks, orgBlocks]
  for (const text of [
    many('== ==\n'),
    many('----\n\n'),
    many('+-+\n|a|\n\n'),
    many('.. a::\n'),
    many('|===\n'),
    many('#+begin_src\n'),
    many('#+begin_comment\n'.repeat(10)),
    many(' '),
    many('| '),
    many('.. code::\n\n x\n'),
  ]) {
    for (const read of blocksOf) expect([...read(text)].length).toBeLessThan(400_000)
  }
})

const BLANKS = ' '.repeat(2000)

it.each([
  ['reStructuredText, a comment', restructuredTextBlocks, `..${BLANKS}a:\n`],
  ['reStructuredText, a directive', restructuredTextBlocks, `.. a::${BLANKS}\u2028b\n`],
  ['Org, a headline', orgBlocks, `* a${BLANKS}b\n`],
  ['AsciiDoc, a fence', asciidocBlocks, `\`\`\`${BLANKS}\u2028b\n`],
  ['Markdown, tables without an end', markdownBlocks, '<table>\n\n'.repeat(80)],
])(
  'no pattern rescans the rest of the line or document: %s',
  (_, blocksOf, part) => {
    let numBlocks = 0
    for (const step of blocksOf(part.repeat(10_000))) numBlocks += step === null ? 0 : 1
    expect(numBlocks).toBeLessThan(1_000_000)
  },
  20_000,
)

it.each([
  ['AsciiDoc', asciidocBlocks, '// a\n'],
  ['reStructuredText', restructuredTextBlocks, '.. a\n'],
  ['Org', orgBlocks, '# a\n'],
  ['Markdown', markdownBlocks, '\n'],
  ['plain text', plainBlocks, '\n'],
])('a caller can interrupt the reader of %s at lines without blocks', (_, blocksOf, line) => {
  const steps = [...blocksOf(line.repeat(1000))]
  expect(steps.filter((step) => step !== null)).toEqual([])
  expect(steps.length).toBeGreaterThanOrEqual(1000)
})

it.each([
  ['AsciiDoc: cells', asciidocBlocks, '|===\n', '|a |b\n', '|==='],
  ['AsciiDoc: CSV', asciidocBlocks, ',===\n', 'a,b\n', ',==='],
  ['reStructuredText: a grid', restructuredTextBlocks, '+---+---+\n', '| a | b |\n', '+---+---+'],
  ['reStructuredText: a simple table', restructuredTextBlocks, '=== ===\n', 'a   b\n', '=== ==='],
  ['reStructuredText: a list', restructuredTextBlocks, '.. list-table::\n\n', '   * - a\n     - b\n', ''],
  ['reStructuredText: CSV', restructuredTextBlocks, '.. csv-table::\n\n', '   a,b\n', ''],
  ['Org', orgBlocks, '', '| a | b |\n', ''],
])('a caller can interrupt the reader of a table at each of its lines: %s', (_, blocksOf, start, row, end) => {
  const numLines = (row.match(/\n/g) ?? []).length * 1000
  let numBefore = 0
  for (const step of blocksOf(start + row.repeat(1000) + end)) {
    if (step !== null) break
    numBefore++
  }
  // Gathering the lines takes a step each, and so does making rows of them.
  expect(numBefore).toBeGreaterThanOrEqual(2 * numLines)
})

it('a long table becomes several blocks, each with the column names', () => {
  const rows = Array.from({ length: 600 }, (_, i) => `| h${i} | ${i} |`)
  for (const [blocksOf, lines] of [
    [orgBlocks, ['| Host | Port |', '|---+---|', ...rows]],
    [markdownBlocks, ['| Host | Port |', '|---|---|', ...rows]],
  ] as const) {
    const blocks = read(blocksOf, lines)
    expect(blocks.length).toBe(3)
    expect(blocks[2]?.split('\n')[0]).toBe('Host: h512 | Port (h512): 512')
  }
})
