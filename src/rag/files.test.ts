import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { writeDocx, writePdf } from '../../test/rag/office-files.ts'
import { decodeHtml, decodeText } from './decode.ts'
import { createDocumentReader } from './document-reader.ts'
import { documentsOf, findFiles, readDocuments } from './files.ts'
import { readContent, withHeaderRows } from './file-reader.ts'
import { formatOfText, fileKind } from './formats.ts'
import { htmlBlocks } from './html.ts'
import type { Remark } from './ingest.ts'
import { pageText } from './pdf.ts'

let root = ''
beforeAll(() => {
  root = join(mkdtempSync(join(tmpdir(), 'miniserve-files-')), 'docs')
  mkdirSync(root)
})
afterAll(() => rmSync(join(root, '..'), { recursive: true }))

describe('the entries of a folder', () => {
  it('are read or reported', async () => {
    const folder = join(root, 'mixed')
    mkdirSync(join(folder, 'sub', 'deep'), { recursive: true })
    for (const name of [
      'C# guide.md',
      'Why?.md',
      '100%.md',
      'README',
      'copyright',
      'README.Debian',
      'a.csv',
      'b.adoc',
      'index.html.ja.utf8',
      'changelog.gz',
    ]) {
      writeFileSync(join(folder, name), 'text')
    }
    for (const name of ['photo.png', 'code.py', 'all.tar.gz', 'sub/old.doc']) writeFileSync(join(folder, name), 'x')
    writeFileSync(join(folder, '.hidden.md'), 'x')
    writeFileSync(Buffer.concat([Buffer.from(`${folder}/caf`), Buffer.from([0xe9]), Buffer.from('.md')]), 'x')
    execFileSync('mkfifo', [join(folder, 'pipe.md')])
    writeFileSync(join(root, '..', 'outside.md'), 'x')
    symlinkSync(join(root, '..', 'outside.md'), join(folder, 'out.md'))
    symlinkSync('README', join(folder, 'link.md'))
    symlinkSync('nothing', join(folder, 'dangling.md'))
    symlinkSync('..', join(folder, 'sub', 'up'))
    symlinkSync('../../sub', join(folder, 'sub', 'deep', 'loop'))
    writeFileSync(join(folder, 'sub', 'in.md'), 'x')
    symlinkSync('sub', join(folder, 'again'))
    const { files, skipped } = await findFiles([folder])
    expect(files.map(({ id }) => id.slice('mixed/'.length)).toSorted()).toEqual(
      [
        '100%.md',
        'C# guide.md',
        'README',
        'README.Debian',
        'Why?.md',
        'a.csv',
        'again/in.md',
        'b.adoc',
        'changelog.gz',
        'copyright',
        'index.html.ja.utf8',
        'link.md',
        'sub/in.md',
      ].toSorted(),
    )
    const reasons = Object.fromEntries(skipped.map(({ id, reason }) => [id.slice('mixed/'.length), reason]))
    expect(reasons).toEqual({
      'all.tar.gz': '.gz files are not read',
      'code.py': '.py files are not read',
      'photo.png': '.png files are not read',
      'sub/old.doc': '.doc files are not read',
      'again/old.doc': '.doc files are not read',
      'caf\uFFFD.md': 'expected a name in UTF-8',
      'dangling.md': 'a broken link',
      'out.md': 'a link to a place outside of the folder',
      'pipe.md': 'a device, pipe or socket',
      'sub/up': 'a link to a folder that it lies in',
      'sub/deep/loop': 'a link to a folder that it lies in',
      'again/up': 'a link to a folder that it lies in',
      'again/deep/loop': 'a link to a folder that it lies in',
    })
    const named = await findFiles([join(folder, 'pipe.md'), '/dev/zero', join(folder, 'code.py')])
    expect(named.files.map(({ id }) => id)).toEqual(['code.py'])
    expect(named.skipped.map(({ id }) => id)).toEqual(['zero', 'pipe.md'])
  })

  it.each([
    ['a/b.MD', 'markdown'],
    ['https://x.example/page.html?v=1#top', 'html'],
    ['C#.md', 'markdown'],
    ['notes.md.gz', 'markdown'],
  ])('%s is %s', (name, kind) => {
    expect(fileKind(name)).toBe(kind)
    expect(formatOfText(name)).toBe(kind)
  })
})

describe('bytes', () => {
  it.each([
    ['<meta charset=iso-8859-1><p>caf\xe9', 'café'],
    ['<meta http-equiv="Content-Type" content="text/html; charset=euc-kr"><p>\xc7\xd1', '한'],
    ['<?xml version="1.0" encoding="ISO-8859-2"?><p>\xb1', 'ą'],
    ['<p>caf\xe9', 'café'],
    ['<meta charset=iso-8859-1><p>\x93caf\xe9\x94', '“café”'],
    ['<meta charset=utf-16><p>caf\xc3\xa9', 'café'],
    ['\xfe\xff\x00<\x00p\x00>\x04\x1f', 'П'],
    ['<meta charset=nonsense><p>caf\xc3\xa9', 'café'],
  ])('of HTML %j', (bytes, text) => {
    expect(htmlBlocks(decodeHtml(Buffer.from(bytes, 'latin1'))).map((block) => block.text)).toEqual([text])
  })

  it.each([
    ['UTF-8', Buffer.from('café'), 'café', false],
    ['UTF-8 with a mark', Buffer.from('\uFEFFcafé'), 'café', false],
    ['UTF-16 with a mark', Buffer.from('\uFEFFcafé', 'utf16le'), 'café', false],
    ['control characters in UTF-8', Buffer.from('a\x1b[1mé'), 'a\x1b[1mé', false],
    ['Latin-1', Buffer.from('caf\xe9\tna\xefve\r\n\f', 'latin1'), 'café\tnaïve\r\n\f', true],
    // A pair of surrogates is one character, so that there are as many valid ones as invalid ones.
    ['Windows-1252 with UTF-8 in it', Buffer.from([0xf0, 0x9f, 0x98, 0x80, 0x20, 0xe9]), 'ðŸ˜€ é', true],
    ['Windows-1252', Buffer.from('5 \x80 \x96 \x93ja\x94', 'latin1'), '5 € – “ja”', true],
  ])('of text in %s', (_, bytes, text, isGuessed) => {
    expect(decodeText(bytes)).toEqual({ text, isGuessed })
  })

  it.each([
    ['a picture', Buffer.from('\x89PNG\r\n\x1a\n\0\0', 'latin1')],
    ['UTF-16 without a mark', Buffer.from('Grüße', 'utf16le')],
    ['half of a marked text', Buffer.from([0xff, 0xfe, 0x00])],
    ['Shift JIS, with bytes that Windows-1252 lacks', Buffer.from([0x83, 0x8d, 0x81, 0x5b])],
    ['UTF-8 that is cut off', Buffer.from('Grüße aus dem Café').subarray(0, -1)],
    [
      'UTF-8 with more characters than broken bytes',
      Buffer.concat([Buffer.from('éé😀'), Buffer.from([0xe9, 0x20, 0xe9])]),
    ],
  ])('that are no text in a known encoding: %s', (_, bytes) => {
    expect(() => decodeText(bytes)).toThrow('expected UTF-8 text')
  })

  it('are not guessed at in a file of an unknown kind', () => {
    expect(() => decodeText(Buffer.from('caf\xe9', 'latin1'), false)).toThrow('expected UTF-8 text')
  })
})

describe('files of other kinds', () => {
  const read = async (name: string, content: Uint8Array) => {
    const rejected: Remark[] = []
    const warnings: Remark[] = []
    const documents = []
    const file = { id: name, name, content, origin: '' }
    const report = {
      reject: (remark: Remark) => rejected.push(remark),
      warn: (remark: Remark) => warnings.push(remark),
    }
    for await (const document of documentsOf(file, { read: readContent }, report)) {
      documents.push(document)
    }
    return { documents, rejected, warnings, reasons: rejected.map(({ reason }) => reason) }
  }

  it('a PDF is read page by page and column by column, with whole words', async () => {
    const column = (x: number, lines: readonly string[]) => lines.map((text, i) => ({ x, y: 700 - 14 * i, text }))
    const pdf = writePdf([
      [{ x: 72, y: 760, text: 'The lighthouse of the island' }],
      [
        ...column(60, [
          'The lamp was lit in 1912 by the kee-',
          'per of the tower, and it burned on',
          'every night until the war came here.',
        ]),
        ...column(330, [
          'Boats are painted blue every spring',
          'and go out again in the first week',
          'of the month of May, weather allowing.',
        ]),
      ],
      null,
    ])
    const { documents, warnings } = await read('report.pdf', pdf)
    expect(documents.map(({ text, format }) => [text, format])).toEqual([
      [
        'The lighthouse of the island\f' +
          'The lamp was lit in 1912 by the keeper of the tower, and it burned on every night until the war came here.\n\n' +
          'Boats are painted blue every spring and go out again in the first week of the month of May, weather allowing.\f',
        'pages',
      ],
    ])
    const reason = 'page 3: no text, only a scanned image; the other pages are read'
    expect(warnings).toEqual([{ id: 'report.pdf', reason }])
    expect(await read('scan.pdf', writePdf([null, null]))).toMatchObject({
      documents: [],
      reasons: [expect.stringMatching(/2 scanned pages: run text recognition/)],
    })
    expect((await read('bad.pdf', Buffer.from('no pdf'))).reasons).toEqual(['the PDF is damaged'])
  })

  it('narrow columns of a page are a table and read by rows', () => {
    const cell = (text: string, left: number, y: number) => ({ text, left, right: left + 40, y, height: 12 })
    const rows = [0, 1, 2].flatMap((i) => [cell(`host${i}`, 60, 700 - 14 * i), cell(`80${i}`, 330, 700 - 14 * i)])
    expect(pageText(rows, 612)).toBe('host0 | 800 host1 | 801 host2 | 802')
  })

  it('a page of very many pieces is read in linear time', () => {
    const numPieces = 100_000
    const pieces = Array.from({ length: numPieces }, (_, i) => ({
      text: `w${i}`,
      left: 60,
      right: 100,
      y: -14 * i,
      height: 12,
    }))
    expect(pageText(pieces, 612).split(' ').length).toBe(numPieces)
    const line = pieces.map((piece, i) => ({ ...piece, left: 10 * i, right: 10 * i + 5, y: 0 }))
    expect(pageText(line, 612).split(' ').length).toBe(numPieces)
  }, 20_000)

  it('a Word document has headings and tables', async () => {
    const paragraph = (text: string, style = '') =>
      `<w:p>${style && `<w:pPr><w:pStyle w:val="${style}"/></w:pPr>`}<w:r><w:t>${text}</w:t></w:r></w:p>`
    const cell = (text: string) => `<w:tc>${paragraph(text)}</w:tc>`
    const body =
      `${paragraph('Museum', 'Heading1')}${paragraph('Opens at nine.')}<w:tbl><w:tr>${cell('Day')}${cell('Hours')}</w:tr></w:tbl>` +
      `<w:tbl><w:tr>${cell('Service')}${cell('Port')}</w:tr><w:tr>${cell('http')}${cell('80')}</w:tr></w:tbl>`
    const { documents, reasons } = await read('plan.docx', writeDocx(body))
    expect(reasons).toEqual([])
    const blocks = htmlBlocks(documents[0]?.text ?? '')
    expect(blocks.map(({ headings, text }) => `${headings.join()}: ${text}`)).toEqual([
      'Museum: Opens at nine.',
      'Museum: Day | Hours',
      'Museum: Service: http | Port (http): 80',
    ])
    expect((await read('bad.docx', Buffer.from('no zip'))).reasons).toEqual(['the DOCX is damaged'])
  })

  it("a Word document's table of any size is read", () => {
    const table = (...rows: readonly (readonly string[])[]) =>
      `<table>${rows.map((cells) => `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`).join('')}</table>`
    const long = table(['a', '9'.repeat(400_000) + 'x'], ['b', '1'])
    expect(withHeaderRows(long)).toBe(long)
    const large = 'x'.repeat(12_000_000)
    expect(withHeaderRows(table(['Name', 'Text'], [large, '1'])).slice(0, 30)).toBe('<table><tr><th>Name</th><th>Te')
    const inner = table(['Service', 'Port'], ['http', '80'])
    expect(withHeaderRows(`${table([inner])}<p>a</p><table>`)).toBe(
      `${table([inner])}<p>a</p><table>`.replace('<td>Service</td><td>Port</td>', '<th>Service</th><th>Port</th>'),
    )
  })

  it('a file that takes too long is refused with the reason, and the next one is read', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const reader = createDocumentReader()
    try {
      const file = { bytes: Buffer.from('text'), kind: 'text', isGzip: false } as const
      const [late, next] = [reader.read(file), reader.read(file)]
      vi.advanceTimersToNextTimer()
      await expect(late).rejects.toThrow('expected a file that is read in 300 s')
      expect(await next).toMatchObject({ text: 'text' })
    } finally {
      vi.useRealTimers()
      await reader.close()
    }
  })

  it('a text in Latin-1 is read with a warning', async () => {
    const { documents, rejected, warnings } = await read(
      'prices.csv',
      Buffer.from('Caf\xe9,Preis\nM\xfcller,5\n', 'latin1'),
    )
    expect(documents).toMatchObject([{ text: 'Café,Preis\nMüller,5\n', format: 'csv' }])
    const reason = 'the text is not UTF-8; it is read as Windows-1252'
    expect({ rejected, warnings }).toEqual({ rejected: [], warnings: [{ id: 'prices.csv', reason }] })
  })

  it('packed files are unpacked, up to a limit', async () => {
    expect((await read('notes.md.gz', gzipSync('# Fox'))).documents).toMatchObject([
      { text: '# Fox', format: 'markdown' },
    ])
    expect((await read('bomb.txt.gz', gzipSync(Buffer.alloc(17 << 20)))).reasons).toEqual([
      expect.stringMatching(/^expected at most \d+ bytes unpacked/),
    ])
    expect((await read('no.gz', Buffer.from('plain'))).reasons).toEqual(['expected a gzip file'])
    expect((await read('photo.png', Buffer.from([0x89, 0xff]))).reasons).toEqual([
      expect.stringMatching(/^expected UTF-8 text; the kinds that are read are \.md, /),
    ])
  })
})

it('says why the system refuses a file in words, once for all files and without their paths', async () => {
  const rejected: unknown[] = []
  const report = { reject: (...all: readonly unknown[]) => void rejected.push(...all), warn: () => {} }
  const reader = { read: () => Promise.reject(new Error('nothing to read')) }
  const gone = { path: join(root, 'vanished.md'), id: 'vanished.md', bytes: 1, changedMs: 0 }
  for await (const document of readDocuments(gone, reader, report)) expect(document).toBeNull()
  expect(rejected).toEqual([{ id: 'vanished.md', reason: 'no such file or folder' }, true])
})
