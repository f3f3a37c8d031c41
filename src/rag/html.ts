/** HTML as blocks of text: what a reader sees, under its headings, with offsets into the source. Malformed input never throws. */
import { HeadingPath, isTitle, type Block } from './blocks.ts'
import { markup } from './html-markup.ts'

/** Their content is not text, or not this document's. */
const SKIPPED = new Set([
  'script',
  'style',
  'template',
  'noscript',
  'svg',
  'math',
  'iframe',
  'object',
  'head',
  'nav',
  'select',
  'button',
])
const BREAKING = new Set(
  (
    'address article aside blockquote body dd details dialog div dl dt fieldset figcaption figure footer form header hr html ' +
    'main ol p section summary table tbody tfoot thead ul'
  ).split(' '),
)
const ENTITIES: Readonly<Record<string, string>> = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  nbsp: ' ',
  ensp: ' ',
  emsp: ' ',
  thinsp: ' ',
  shy: '',
  copy: '©',
  reg: '®',
  trade: '™',
  hellip: '…',
  mdash: '—',
  ndash: '–',
  lsquo: '‘',
  rsquo: '’',
  ldquo: '“',
  rdquo: '”',
  laquo: '«',
  raquo: '»',
  bull: '•',
  middot: '·',
  deg: '°',
  times: '×',
  divide: '÷',
  minus: '−',
  plusmn: '±',
  le: '≤',
  ge: '≥',
  ne: '≠',
  asymp: '≈',
  rarr: '→',
  larr: '←',
  micro: 'µ',
  euro: '€',
  pound: '£',
  sect: '§',
  para: '¶',
  auml: 'ä',
  ouml: 'ö',
  uuml: 'ü',
  Auml: 'Ä',
  Ouml: 'Ö',
  Uuml: 'Ü',
  szlig: 'ß',
  eacute: 'é',
  egrave: 'è',
  agrave: 'à',
  ccedil: 'ç',
  ntilde: 'ñ',
}

const REFERENCE = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]{2,8}));/g

function decodeReferences(text: string): string {
  return text.replaceAll(REFERENCE, (whole: string, decimal?: string, hex?: string, name?: string) => {
    if (name !== undefined) return ENTITIES[name] ?? whole
    const code = decimal === undefined ? Number.parseInt(hex ?? '', 16) : Number(decimal)
    return code > 0 && code <= 0x10_ff_ff && !(code >= 0xd8_00 && code <= 0xdf_ff) ? String.fromCodePoint(code) : ''
  })
}

export function* htmlBlocks(html: string): Generator<Block> {
  const path = new HeadingPath()
  let parts: string[] = []
  let start = -1
  let end = 0
  let kind: Block['kind'] = 'prose'
  let headingLevel = 0
  let preDepth = 0
  let skipped: string | null = null
  let skipDepth = 0

  const add = (text: string, from: number, to: number): void => {
    if (text === '') return
    if (start < 0) {
      if (text.trim() === '') return
      start = from
    }
    parts.push(text)
    end = to
  }
  function* flush(): Generator<Block> {
    const joined = parts.join('')
    const text = kind === 'code' ? withoutOuterLines(joined) : tidy(joined)
    if (text !== '' && headingLevel > 0 && isTitle(text)) path.enter(headingLevel, text.replaceAll('\n', ' '))
    else if (text !== '') yield { kind, text, headings: path.titles(), start, end }
    parts = []
    start = -1
    kind = preDepth > 0 ? 'code' : 'prose'
  }
  const addText = (from: number, to: number): void => {
    if (skipped !== null || from === to) return
    const text = decodeReferences(html.slice(from, to))
    add(preDepth > 0 ? text : text.replaceAll(/\s+/g, ' '), from, to)
  }

  let position = 0
  for (const { start: at, end: behind, name, isClosing, isEmpty } of markup(html)) {
    addText(position, at)
    position = behind
    if (name === null) continue
    if (skipped !== null) {
      if (name === skipped && !isEmpty) skipDepth += isClosing ? -1 : 1
      if (skipDepth === 0) skipped = null
      continue
    }
    if (SKIPPED.has(name)) {
      if (!isClosing && !isEmpty) {
        skipped = name
        skipDepth = 1
      }
      continue
    }
    const level = /^h([1-6])$/.exec(name)?.[1]
    if (level !== undefined) {
      yield* flush()
      headingLevel = isClosing ? 0 : Number(level)
    } else if (name === 'pre') {
      yield* flush()
      preDepth = Math.max(0, preDepth + (isClosing ? -1 : 1))
      kind = preDepth > 0 ? 'code' : 'prose'
    } else if (name === 'br') add('\n', at, position)
    else if (name === 'li' || name === 'tr') {
      if (kind === 'prose') kind = 'lines'
      add(isClosing ? '\n' : name === 'li' ? '\n- ' : '\n', at, position)
      if (!isClosing && start < 0 && name === 'li') {
        parts.push('- ')
        start = at
      }
    } else if ((name === 'td' || name === 'th') && isClosing) add(' | ', at, position)
    else if (BREAKING.has(name)) {
      // Paragraphs inside list items and cells do not end the list or the table.
      const isListEnd = isClosing && /^(?:ul|ol|table|dl)$/.test(name)
      if (kind !== 'lines' || isListEnd) yield* flush()
      else if (isClosing) add('\n', at, position)
    }
  }
  addText(position, html.length)
  yield* flush()
}

/** Code without the empty lines before it and the white space behind it. */
function withoutOuterLines(text: string): string {
  let start = 0
  while (text[start] === '\n') start++
  return text.slice(start).trimEnd()
}

/** A row of a table without the separators of empty cells at its end. */
function withoutEmptyCells(line: string): string {
  const row = line.trimEnd()
  let end = row.length
  while (end >= 2 && row.startsWith(' |', end - 2)) end -= 2
  return row.slice(0, end).trim()
}

/** Lines without the white space around them and without empty ones. */
const tidy = (text: string): string =>
  text
    .split('\n')
    .map((line) => withoutEmptyCells(line.replaceAll(/[ \t\u00a0]+/g, ' ')))
    .filter((line) => line !== '' && line !== '-')
    .join('\n')
