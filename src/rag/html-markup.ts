/** Where the markup of an HTML text is. One pass whatever the input: regular expressions with quoted attributes are quadratic on `<a"<a"<a"`. */

export interface Markup {
  /** UTF-16 offsets: [start, end). */
  readonly start: number
  readonly end: number
  /** Tag name in lower case; null for comments, declarations and processing instructions. */
  readonly name: string | null
  readonly isClosing: boolean
  /** Ends in a slash. */
  readonly isEmpty: boolean
}

const TAG_NAME = /(\/?)([a-zA-Z][a-zA-Z0-9-]{0,63})/y
const TAG_DELIMITER = /[>"']/g

/** Tags, comments and declarations in order. A `<` that begins none of them is text, and so is a tag that never ends. */
export function* markup(html: string): Generator<Markup> {
  let isQuoteAware = true
  for (let start = html.indexOf('<'); start >= 0;) {
    const next = html[start + 1]
    if (next === '!' || next === '?') {
      const isComment = html.startsWith('--', start + 2)
      const close = isComment ? html.indexOf('-->', start + 4) : html.indexOf('>', start + 2)
      // A comment without end reaches to the end of the text.
      if (close < 0 && !isComment) return
      const end = close < 0 ? html.length : close + (isComment ? 3 : 1)
      yield { start, end, name: null, isClosing: false, isEmpty: false }
      start = html.indexOf('<', end)
      continue
    }
    TAG_NAME.lastIndex = start + 1
    const tag = TAG_NAME.exec(html)
    if (!tag) {
      start = html.indexOf('<', start + 1)
      continue
    }
    const from = start + 1 + tag[0].length
    let close = isQuoteAware ? tagClose(html, from) : html.indexOf('>', from)
    if (close < 0 && isQuoteAware) {
      // A quote is left open: browsers drop the rest of the page. Here quotes mean nothing from now on, so that this is found out once.
      isQuoteAware = false
      close = html.indexOf('>', from)
    }
    if (close < 0) return
    const [, slash, name = ''] = tag
    yield {
      start,
      end: close + 1,
      name: name.toLowerCase(),
      isClosing: slash === '/',
      isEmpty: close > from && html[close - 1] === '/',
    }
    start = html.indexOf('<', close + 1)
  }
}

/** Where the `>` of a tag is, outside of quotes; -1: nowhere. */
function tagClose(html: string, from: number): number {
  TAG_DELIMITER.lastIndex = from
  for (let found = TAG_DELIMITER.exec(html); found; found = TAG_DELIMITER.exec(html)) {
    if (found[0] === '>') return found.index
    const closing = html.indexOf(found[0], found.index + 1)
    if (closing < 0) return -1
    TAG_DELIMITER.lastIndex = closing + 1
  }
  return -1
}
