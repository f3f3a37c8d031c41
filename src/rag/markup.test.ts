/** AsciiDoc, reStructuredText, Org, and HTML inside Markdown: sections above blocks, rows that name their columns. */
import { expect, it } from 'vitest'
import { asciidocBlocks } from './asciidoc.ts'
import type { Block } from './blocks.ts'
import { markdownBlocks } from './markdown.ts'
import { orgBlocks } from './org.ts'
import { restructuredTextBlocks } from './restructured-text.ts'

/** A document as "heading > heading: text", block by block; rows and paragraphs are where they say. */
function read(blocksOf: (text: string) => Iterable<Block>, lines: readonly string[]): string[] {
  const source = lines.join('\n')
  const blocks = [...blocksOf(source)]
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

it('documents made to be slow end soon', () => {
  const many = (text: string): string => text.repeat(10_000)
  const blocksOf = [asciidocBlocks, restructuredTextBlocks, orgBlocks]
  for (const text of [
    many('== ==\n'),
    many('----\n\n'),
    many('+-+\n|a|\n\n'),
    many('.. a::\n'),
    many('|===\n'),
    many('#+begin_src\n'),
    many(' '),
    many('| '),
    many('.. code::\n\n x\n'),
  ]) {
    for (const read of blocksOf) expect([...read(text)].length).toBeLessThan(200_000)
  }
})
