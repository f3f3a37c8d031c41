import { describe, expect, it } from 'vitest'
import { UnreadableError } from './errors.ts'
import { htmlBlocks } from './html.ts'

/** A page as "heading > heading: text", block by block. */
const read = (html: string): string[] =>
  htmlBlocks(html).map(({ headings, text }) => (headings.length > 0 ? `${headings.join(' > ')}: ${text}` : text))

describe('HTML reads as in a browser', () => {
  it.each([
    ['<html><head><title>T</title><body><p>The museum opens at nine.</p>', ['T: The museum opens at nine.']],
    ['<p>a</p><script>for(i=0;i<n;i++){f(i)}</script><p>b</p><script>x()</script><p>c</p>', ['a', 'b', 'c']],
    ['<script>document.write("<b");</script><p>After.', ['After.']],
    [`<script>document.write('<script src="j.js"><\\/script>')</script><p>After.`, ['After.']],
    ['<h2><button>When does it open?</button></h2><div>At nine.</div>', ['When does it open?: At nine.']],
    ['<p>Press <button>Save</button> to keep it.', ['Press Save to keep it.']],
    ['vers&atilde;o m&ecirc;me caf&eacute &alpha; &toString; &#33;', ['versão même café α &toString; !']],
    ['<noscript>a</noscript><p><object data=x>b</object><p><math><mi>c</mi></math>', ['a', 'b', 'c']],
    ['<!--><p>x<!-- a --!>y', ['xy']],
    ['<p>x<img src=o.png alt="an otter">y', ['x an otter y']],
    ['<span>Monday</span> <span>9:00</span><p>a<br>b', ['Monday 9:00', 'a\nb']],
    ['<frameset><frame src=x><noframes><body><p>No <b>frames</b></body></noframes></frameset>', ['No frames']],
    ['<ul><li>a<li><p>b<ul><li>c</ul></ul><p>d', ['- a\n- b\n- c', 'd']],
    [
      `<table><tr><th>A<th>B<tr><th>${'x'.repeat(80)}<th>C${`<tr><th>${'y'.repeat(80)}<th>`.repeat(2)}<tr><td>1<td>2</table>`,
      [`${'y'.repeat(80)}\nA ${'x'.repeat(80)} ${'y'.repeat(80)}: 1 | B C (1): 2`],
    ],
    ['<select><option>A<option>B</select><p>c', ['A', 'B', 'c']],
    ['<pre>\n x  1\n  y</pre>', [' x  1\n  y']],
    ['<?xml version="1.0"?><html><head><title/><script src="a.js"/></head><body><style/><p>a', ['a']],
    ['<!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><script src="a.js"/><p>a', ['a']],
  ])('%s', (html, expected) => {
    expect(read(html)).toEqual(expected)
  })

  it.each(['nav', 'button', 'select', 'svg', 'iframe', 'noscript', 'object', 'title', 'textarea'])(
    'a <%s> that is never closed hides nothing',
    (name) => {
      const text = read(`<p>Before.</p><${name}>In it.<p>One.</p><h2>Head</h2><p>Two.</p>`).join('\n')
      expect(text).toMatch(/Before\.[^]*In it\.[^]*One\.[^]*Head: Two\./)
    },
  )

  it.each([
    ['<h1>The museum opens at nine</h1>', ['The museum opens at nine']],
    ['<h2>Closed on the 24th</h2><h2>Prices</h2><p>5', ['Closed on the 24th', 'Prices: 5']],
    ['<h1>A</h1><h2>B</h2><h1>C</h1><p>x', ['A: B', 'C: x']],
    ['<h1>Museum<p>Opens at nine.</p><p>Closes at five.</p>', ['Museum: Opens at nine.', 'Museum: Closes at five.']],
    ['<title>Only the title</title>', ['Only the title']],
    ['<title>Museum</title><h1>The Museum</h1><p>x', ['The Museum: x']],
    ['<title>Museum</title><h1>Hours</h1><p>x', ['Museum > Hours: x']],
    ['<h2>Options<a href="#options">¶</a></h2><p>x', ['Options: x']],
  ])('headings: %s', (html, expected) => {
    expect(read(html)).toEqual(expected)
  })

  it.each([
    ['<table><tr><td>Monday<td>9:00', ['Monday | 9:00']],
    ['<table><tr><td><p>Monday</p></td><td><p>9:00</p></td></table>', ['Monday | 9:00']],
    [
      '<table><tr><th>Service<th>Port<tr><td>http<td>80<tr><td>ssh<td>22</table>',
      ['Service: http | Port (http): 80\nService: ssh | Port (ssh): 22'],
    ],
    [
      '<table><tr><th><th colspan=2>Hours<tr><th>Day<th>from<th>to<tr><td>Monday<td>9<td>17</table>',
      ['Day: Monday | Hours from (Monday): 9 | Hours to (Monday): 17'],
    ],
    ['<table><tr><th>Size<td>40 m<tr><th>Built<td>1902</table>', ['Size: 40 m\nBuilt: 1902']],
    [
      '<table><caption>Ports</caption><thead><tr><td>A<td>B</thead><tr><th rowspan=2>r<td>1<tr><td>2</table>',
      ['Ports\nA: r | B (r): 1\nA: r | B (r): 2'],
    ],
    ['<table><tr><td><h2>Layout</h2><p>text</table>', ['Layout: text']],
    ['<table><tr><th>Name<th>Note</table>', ['Name | Note']],
  ])('tables: %s', (html, expected) => {
    expect(read(html)).toEqual(expected)
  })

  it('offsets point into the source', () => {
    const html = '<h1>T</h1>\r\n<p>One <b>bold</b> word.</p><title>x<p>behind</p>'
    for (const { text, start, end } of htmlBlocks(html)) {
      expect(html.slice(start, end).replaceAll(/<[^>]*>/g, '')).toContain(text.split(' ')[0])
    }
  })

  it('pages made to be slow or large are read or refused quickly', () => {
    expect(() => htmlBlocks('<div>'.repeat(300_000))).toThrow(UnreadableError)
    expect(() => htmlBlocks('<table><tr><td>'.repeat(20_000))).toThrow(UnreadableError)
    expect(read(`<table><tr>${'<td colspan=1000 rowspan=1000>x'.repeat(200)}`)[0]).toMatch(/^x \| x/)
    expect(read('<iframe>'.repeat(1000) + 'x').join()).toBe('x')
    expect(read('<title>'.repeat(5000) + '<p>x').join()).toContain('x')
  })
})

describe('a block can be linked to', () => {
  const anchors = (html: string) => htmlBlocks(html).map(({ text, anchor }) => [text, anchor])

  it.each([
    ['an id of the heading', '<h2 id="prices">Prices</h2><p>5', '#prices'],
    ['an id inside the heading', '<h2><a id="prices"></a>Prices</h2><p>5', '#prices'],
    ['a name', '<a name="prices"></a><h2>Prices</h2><p>5', '#prices'],
    ['the section', '<p>x<section id="prices"><h2>Prices</h2><p>5', '#prices'],
    ['the innermost of the section', '<section id="a"><span id="b"></span><h2>Prices</h2><p>5', '#b'],
    ['signs that links escape', '<h2 id=\'preis "50 €" #1\'>Prices</h2><p>5', '#preis%20%2250%20%E2%82%AC%22%20%231'],
    ['an id that is too long', `<h2 id="${'a'.repeat(200)}">Prices</h2><p>5`, undefined],
    ['an id of other text', '<p id="x">Before.</p><h2>Prices</h2><p>5', undefined],
    ['a heading without one below one that has', '<h1 id="top">Museum</h1><h2>Prices</h2><p>5', '#top'],
    ['a table', '<h2 id="t">Prices</h2><table><tr><th>Who<th>Fee<tr><td>All<td>5</table>', '#t'],
  ])('%s', (_, html, expected) => {
    expect(anchors(html).at(-1)?.[1]).toBe(expected)
  })

  it('a heading without text below it has its own anchor', () => {
    expect(anchors('<h1 id="a">A</h1><h2 id="b">B</h2><h2 id="c">C</h2><p>x')).toEqual([
      ['B', '#b'],
      ['x', '#c'],
    ])
  })
})
