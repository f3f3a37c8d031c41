/** HTML as blocks of text: what a reader sees, below its headings, with offsets into the source. Malformed input is read as a browser reads it. */
import {
  html as spec,
  Parser,
  type DefaultTreeAdapterTypes as Dom,
  type DefaultTreeAdapterMap,
  type Token,
} from 'parse5'
import { DOCUMENT_TITLE, HeadingPath, isTitle, type Block } from './blocks.ts'
import { UnreadableError } from './errors.ts'
import { tableRows } from './html-table.ts'
import { tableBlocks } from './tables.ts'

/** Elements whose content is not text, or repeats the text beside it. */
const SKIPPED = new Set(['script', 'style', 'template', 'annotation', 'annotation-xml', 'datalist'])
/** Raw text to the parser: an element that is never closed would swallow the rest of the page. */
const RAW = new Set(['title', 'textarea', 'xmp', 'noembed', 'noframes'])
/** Raw text to the parser, but HTML to browsers without frames. */
const FALLBACK = new Set(['noembed', 'noframes'])
/** Raw text to the parser: a start tag closed as in XML (`<script/>`) would swallow the rest of the page. */
const CLOSED_IN_XML = new Set(['script', 'style', 'template', 'noscript', ...RAW])
/** A page in XML syntax, which browsers expect in files named .xhtml. */
const XML_START = /^\uFEFF?\s*(?:<\?xml\b|(?:<!doctype[^>]*>\s*)?<html\b[^>]*\sxmlns\s*=)/i
const BREAKING = new Set(
  (
    'address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure footer form frameset ' +
    'header hgroup hr html legend main menu nav ol optgroup option p plaintext search section summary table tbody td tfoot th thead tr ul'
  ).split(' '),
)
const LISTS = new Set(['ul', 'ol', 'menu', 'dir'])
const PREFORMATTED = new Set(['pre', 'listing', 'xmp', 'plaintext'])
/** Boxes on the page: words inside do not join those outside. */
const BOXES = new Set(['button', 'input', 'img', 'object', 'video', 'audio', 'canvas', 'marquee'])

const BULLET = '- '

/** Depth of nested elements. The parser's work per tag grows with the depth: a page of nothing but `<div>` would take hours. */
const MAX_DEPTH = 1500
/** Elements of a page; each takes about 300 bytes. */
const MAX_ELEMENTS = 1_000_000
/** UTF-16 units of the name in a link to a heading. */
const MAX_ID_LENGTH = 128
/** How often a page, or raw text inside it, is read as HTML. */
const MAX_READINGS = 3

/** The standard's parser, except that menus and frames are plain containers and hide no text. */
class PageParser extends Parser<DefaultTreeAdapterMap> {
  #numElements = 0
  isXml = false
  /** The end of the last tag or text. Any source after it is a tag that never ends. */
  lastEnd = 0

  override onStartTag(token: Token.TagToken): void {
    if (++this.#numElements > MAX_ELEMENTS) {
      throw new UnreadableError(`expected at most ${MAX_ELEMENTS} elements, found more`)
    }
    if (this.openElements.stackTop > MAX_DEPTH) {
      throw new UnreadableError(`expected elements at most ${MAX_DEPTH} deep inside each other, found more`)
    }
    asContainer(token)
    if (this.isXml && token.selfClosing && CLOSED_IN_XML.has(token.tagName)) asEmpty(token)
    super.onStartTag(token)
    this.lastEnd = token.location?.endOffset ?? this.lastEnd
  }

  override onEndTag(token: Token.TagToken): void {
    asContainer(token)
    super.onEndTag(token)
    this.lastEnd = token.location?.endOffset ?? this.lastEnd
  }

  override onCharacter(token: Token.CharacterToken): void {
    super.onCharacter(token)
    this.lastEnd = token.location?.endOffset ?? this.lastEnd
  }

  override onWhitespaceCharacter(token: Token.CharacterToken): void {
    super.onWhitespaceCharacter(token)
    this.lastEnd = token.location?.endOffset ?? this.lastEnd
  }

  override onComment(token: Token.CommentToken): void {
    super.onComment(token)
    this.lastEnd = token.location?.endOffset ?? this.lastEnd
  }
}

/** The standard drops tags inside `select` and reads `iframe` as raw text. */
function asContainer(token: Token.TagToken): void {
  if (token.tagName !== 'select' && token.tagName !== 'iframe') return
  token.tagName = 'span'
  token.tagID = spec.TAG_ID.SPAN
}

/** Replaces an element by one without content that shows nothing. */
function asEmpty(token: Token.TagToken): void {
  token.tagName = 'wbr'
  token.tagID = spec.TAG_ID.WBR
}

/**
 * @returns the blocks in the order of the page.
 * @throws UnreadableError for a page that would take too much time or memory.
 */
export function htmlBlocks(html: string): readonly Block[] {
  const reader = new PageReader(html)
  reader.read(0)
  return reader.end()
}

class PageReader {
  readonly #html: string
  readonly #blocks: Block[] = []
  readonly #path = new HeadingPath()
  #parts: string[] = []
  #start = -1
  #end = 0
  #kind: 'prose' | 'lines' | 'code' = 'prose'
  #preDepth = 0
  #listDepth = 0
  /** The level of the heading whose text comes next. */
  #headingLevel: number | null = null
  /** The id of the last element with one since the last text: generators put it on the section around a heading or on a link in it. */
  #id: string | null = null
  /** The value of `#id` where the text of the block began. */
  #textId: string | null = null
  #numReadings = 0
  /** Whether a title or heading has been read: a title after one is text. */
  #hasTitle = false

  constructor(html: string) {
    this.#html = html
  }

  /** Reads a part of the source. */
  read(offset: number, to = this.#html.length): void {
    this.#numReadings++
    const source = offset === 0 && to === this.#html.length ? this.#html : this.#html.slice(offset, to)
    let isCut = false
    const parser = new PageParser({
      sourceCodeLocationInfo: true,
      scriptingEnabled: false,
      onParseError: ({ code }) => {
        isCut ||= code === 'eof-in-tag'
      },
    })
    parser.isXml = XML_START.test(this.#html)
    parser.tokenizer.write(source, true)
    this.#walkAll(parser.document.childNodes, offset)
    this.#flush()
    if (isCut) this.#readCutTag(offset + parser.lastEnd)
  }

  end(): readonly Block[] {
    this.#flush()
    this.#blocks.push(...this.#path.end())
    return this.#blocks
  }

  /** Reads the rest of a page from a tag that never ends, usually because a quote is left open: quotes are taken for spaces. */
  #readCutTag(from: number): void {
    const rest = this.#html.slice(from)
    if (rest.includes('>') && this.#numReadings <= MAX_READINGS) {
      const unquoted = new PageReader(' '.repeat(from) + rest.replaceAll(/["']/g, ' '))
      unquoted.#numReadings = this.#numReadings
      unquoted.read(from)
      for (const block of unquoted.end()) {
        this.#blocks.push(block.headings.length > 0 ? block : { ...block, ...this.#path.place() })
      }
      return
    }
    this.#add(rest, from, this.#html.length)
    this.#flush()
  }

  #walkAll(nodes: readonly Dom.ChildNode[], offset: number): void {
    for (const node of nodes) this.#walk(node, offset)
  }

  #walk(node: Dom.ChildNode, offset: number): void {
    if (node.nodeName === '#text') {
      const { value, sourceCodeLocation: at } = node as Dom.TextNode
      const from = offset + (at?.startOffset ?? 0)
      this.#add(this.#preDepth > 0 ? value : collapse(value), from, offset + (at?.endOffset ?? 0))
      return
    }
    if (!('tagName' in node)) return
    const name = node.tagName
    if (SKIPPED.has(name)) return
    this.#id = idOf(node) ?? this.#id
    const { sourceCodeLocation: at } = node
    const start = offset + (at?.startOffset ?? 0)
    const end = offset + (at?.startTag?.endOffset ?? at?.endOffset ?? 0)
    if (this.#numReadings <= MAX_READINGS && at?.startTag) {
      if (RAW.has(name) && !at.endTag) return this.read(end)
      if (FALLBACK.has(name) && at.endTag) return this.read(end, offset + at.endTag.startOffset)
    }
    const isTitleElement = name === 'title' && node.namespaceURI === spec.NS.HTML && !this.#hasTitle
    const level = isTitleElement ? DOCUMENT_TITLE : headingLevel(name)
    this.#hasTitle ||= level !== null
    if (level !== null) return this.#walkHeading(node, level, offset)
    if (name === 'table' && this.#addTable(node, offset)) return
    if (PREFORMATTED.has(name)) return this.#walkPreformatted(node, offset)
    if (LISTS.has(name)) return this.#walkList(node, offset)
    if (name === 'br') return this.#add('\n', start, end)
    if (name === 'img') return this.#add(` ${attributeOf(node, 'alt')} `, start, end)
    if (name === 'li') return this.#walkItem(node, offset)
    if (BOXES.has(name)) this.#add(' ', start, start)
    if (BREAKING.has(name)) this.#break(start)
    this.#walkAll(node.childNodes, offset)
    if (BREAKING.has(name)) this.#break(offset + (at?.endOffset ?? 0))
    if (BOXES.has(name)) this.#add(' ', end, end)
  }

  /** Ends the block, but not a list inside one of its items. */
  #break(at: number): void {
    if (this.#listDepth > 0 && this.#kind === 'lines') {
      if (this.#parts.at(-1) !== BULLET) this.#add('\n', at, at)
    } else this.#flush()
  }

  /** The first block inside is the title. There are more if the end tag is missing. */
  #walkHeading(node: Dom.Element, level: number, offset: number): void {
    this.#flush()
    const outer = this.#headingLevel
    this.#headingLevel = level
    this.#walkAll(node.childNodes, offset)
    this.#flush()
    this.#headingLevel = outer
  }

  #walkPreformatted(node: Dom.Element, offset: number): void {
    this.#flush()
    this.#preDepth++
    this.#kind = 'code'
    this.#walkAll(node.childNodes, offset)
    this.#flush()
    this.#preDepth--
    this.#kind = this.#preDepth > 0 ? 'code' : 'prose'
  }

  #walkList(node: Dom.Element, offset: number): void {
    if (this.#listDepth === 0) this.#flush()
    this.#listDepth++
    this.#walkAll(node.childNodes, offset)
    this.#listDepth--
    if (this.#listDepth === 0) this.#flush()
    else this.#add('\n', this.#end, this.#end)
  }

  #walkItem(node: Dom.Element, offset: number): void {
    const start = offset + (node.sourceCodeLocation?.startOffset ?? 0)
    if (this.#listDepth === 0) this.#flush()
    if (this.#kind === 'prose') this.#kind = 'lines'
    this.#add('\n', start, start)
    this.#parts.push(BULLET)
    this.#walkAll(node.childNodes, offset)
    this.#add('\n', this.#end, this.#end)
    if (this.#listDepth === 0) this.#flush()
  }

  /** @returns false for a table that lays out a page: its cells are read as blocks. */
  #addTable(node: Dom.Element, offset: number): boolean {
    const rows = tableRows(node, textOf)
    if (!rows) return false
    this.#flush()
    if (rows.length === 0) return true
    const moved = rows.map(({ text, start, end }) => ({ text, start: offset + start, end: offset + end }))
    for (const block of tableBlocks(moved, this.#path.place())) if (block) this.#blocks.push(block)
    return true
  }

  #add(text: string, start: number, end: number): void {
    if (text === '') return
    const isBlank = text.trim() === ''
    if (this.#start < 0) {
      if (isBlank) return
      this.#start = start
      this.#textId = this.#id
    }
    if (!isBlank) this.#id = null
    this.#parts.push(text)
    // Misplaced content inside a table is moved before it.
    this.#start = Math.min(this.#start, start)
    this.#end = Math.max(this.#end, end)
  }

  #flush(): void {
    const joined = this.#parts.join('')
    const [start, end, kind, textId] = [this.#start, this.#end, this.#kind, this.#textId]
    this.#parts = []
    this.#textId = null
    this.#start = -1
    this.#end = 0
    this.#kind = this.#preDepth > 0 ? 'code' : 'prose'
    if (start < 0) return
    const text = kind === 'code' ? withoutOuterLines(joined) : tidy(joined)
    if (text === '') return
    const level = this.#headingLevel
    this.#headingLevel = null
    if (level !== null && isTitle(text)) {
      const anchor = fragmentOf(textId ?? this.#id)
      this.#id = null
      const heading = { level, title: withoutMark(text.replaceAll('\n', ' ')), start, end }
      this.#blocks.push(...this.#path.enter({ ...heading, ...(anchor !== null && { anchor }) }))
    } else this.#blocks.push({ kind, text, ...this.#path.place(), start, end })
  }
}

const headingLevel = (name: string): number | null => {
  const digit = /^h([1-6])$/.exec(name)?.[1]
  return digit === undefined ? null : Number(digit)
}

/** The name that links use for an element: its id, or the name of `<a name>`. */
function idOf(node: Dom.Element): string | null {
  const id = attributeOf(node, 'id') || (node.tagName === 'a' ? attributeOf(node, 'name') : '')
  return id === '' ? null : id
}

/** A link's fragment; null without a name, or for one too long to be repeated in every answer. */
function fragmentOf(id: string | null): string | null {
  if (id === null || id.length > MAX_ID_LENGTH || /\p{Cs}/u.test(id)) return null
  return `#${encodeURI(id).replaceAll('#', '%23')}`
}

const attributeOf = (node: Dom.Element, name: string): string =>
  collapse(node.attrs.find((attribute) => attribute.name === name)?.value ?? '').trim()

/** White space collapsed as in HTML, without soft hyphens. */
const collapse = (text: string): string => text.replaceAll(/[ \t\n\f\r]+/g, ' ').replaceAll('\u00ad', '')

/** The text of a cell or caption, on one line. */
function textOf(node: Dom.Element): string {
  const parts: string[] = []
  const walk = (child: Dom.ChildNode): void => {
    if (child.nodeName === '#text') parts.push((child as Dom.TextNode).value)
    if (!('tagName' in child) || SKIPPED.has(child.tagName)) return
    const name = child.tagName
    if (name === 'img') parts.push(' ', attributeOf(child, 'alt'), ' ')
    const isApart = BREAKING.has(name) || BOXES.has(name) || name === 'br' || name === 'li' || headingLevel(name)
    if (isApart) parts.push(' ')
    for (const inner of child.childNodes) walk(inner)
    if (isApart) parts.push(' ')
  }
  for (const child of node.childNodes) walk(child)
  return tidy(collapse(parts.join('')))
}

/** A title without the mark that documentation generators append as a link to the heading. */
const withoutMark = (title: string): string => title.replace(/\s*[¶§🔗]$/u, '')

/** Code without the empty lines before it and the white space after it. */
function withoutOuterLines(text: string): string {
  let start = 0
  while (text[start] === '\n') start++
  return text.slice(start).trimEnd()
}

/** Trimmed lines, without empty ones and lone bullets. */
const tidy = (text: string): string =>
  text
    .split('\n')
    .map((line) => line.replaceAll(/[ \t\u00a0]+/g, ' ').trim())
    .filter((line) => line !== '' && line !== '-')
    .join('\n')
