/** The retrieval routes over real models (random weights) and a real store. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Hono } from 'hono'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import { writePdf } from '../../test/rag/office-files.ts'
import { writeBertFolder } from '../../test/rag/onnx-bert.ts'
import { RagError } from '../rag/errors.ts'
import { SERVER_ACCESS } from '../rag/access.ts'
import { createRag } from '../rag/create-rag.ts'
import type { RagService } from '../rag/service.ts'
import { Admission } from './admission.ts'
import { admit, requestTrace } from './middleware.ts'
import { embeddingHandlers } from './embeddings.ts'
import type { AppEnv } from './env.ts'
import { toApiError, toErrorBody } from './errors.ts'
import { openApiDocument } from './openapi.ts'
import { ragHandlers } from './rag.ts'
import { rerankHandlers } from './rerank.ts'
import { registerRoutes } from './router.ts'

let folder = ''
let rag: RagService
let app: Hono<AppEnv>
let observability: TestObservability
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-rag-routes-'))
  const words = ['fox', 'walnut', 'bread']
  rag = createRag({
    store: 'memory',
    storeUrl: null,
    dataDir: folder,
    cacheDir: folder,
    modelsDir: folder,
    embeddingModel: writeBertFolder(folder, 'embedder', { words }),
    rerankerModel: writeBertFolder(folder, 'reranker', { words, isClassifier: true }),
    hub: { cacheDir: folder, endpoint: 'http://127.0.0.1:9', token: null, offline: true },
    device: 'cpu',
    defaultIndex: 'docs',
    bundledFiles: [],
    rerankBudgetMs: 60_000,
  })
  const admission = new Admission({
    maxQueuedRequests: 100,
    maxRequestBytes: 100_000,
    stats: () => ({ numWaiting: 0 }),
    state: () => 'ready',
  })
  app = new Hono<AppEnv>()
  observability = testObservability()
  app.use(requestTrace(observability))
  app.use(async (c, next) => {
    c.set('requestId', 'req-1')
    c.set('caller', { keyId: 'anonymous', isAdmin: true, cacheSalt: '', limits: null, indexes: SERVER_ACCESS })
    await next()
  })
  app.use(admit(admission))
  app.onError((error, c) => {
    const apiError = toApiError(error, '0'.repeat(32))
    return c.json(toErrorBody(apiError), apiError.status)
  })
  registerRoutes(app, { ...embeddingHandlers(rag), ...rerankHandlers(rag), ...ragHandlers(rag) })
})
afterAll(async () => {
  await rag.close()
  await observability.shutdown(100)
  rmSync(folder, { recursive: true })
})

async function call(
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; json: Record<string, unknown> }> {
  const init = body === undefined ? {} : { body: JSON.stringify(body) }
  const response = await app.request(path, { method, ...init })
  const json: unknown = await response.json()
  return { status: response.status, json: json as Record<string, unknown> }
}
const post = (path: string, body: unknown) => call('POST', path, body)

describe('POST /v1/embeddings', () => {
  const embed = async (body: object) => {
    const { status, json } = await post('/v1/embeddings', body)
    expect([status, json['error']]).toEqual([200, undefined])
    return json as {
      data: { index: number; embedding: number[] | string }[]
      model: string
      usage: { prompt_tokens: number }
    }
  }

  it('takes a text or several, floats or base64, whole or shortened', async () => {
    const one = await embed({ input: 'fox' })
    expect(one).toMatchObject({ object: 'list', model: 'embedder', usage: { prompt_tokens: 3, total_tokens: 3 } })
    const many = await embed({ input: ['walnut bread', 'fox'], model: 'embedder', encoding_format: 'base64' })
    expect(many.data.map(({ index }) => index)).toEqual([0, 1])
    const bytes = Buffer.from(String(many.data[1]?.embedding), 'base64')
    const floats = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(i * 4))
    expect(floats).toHaveLength(32)
    floats.forEach((value, i) => expect(value).toBeCloseTo(Number(one.data[0]?.embedding[i]), 4))
    const [short] = (await embed({ input: 'fox', dimensions: 4 })).data
    const vector = (short?.embedding ?? []) as number[]
    expect(vector).toHaveLength(4)
    expect(Math.hypot(...vector)).toBeCloseTo(1, 5)
  })

  it("takes token ids of the model's own vocabulary", async () => {
    const ids = await embed({ input: [[5], [6, 7]] })
    const [fox] = (await embed({ input: 'fox' })).data
    expect(ids.data).toHaveLength(2)
    expect(ids.data[0]?.embedding).toEqual(fox?.embedding)
  })

  it.each([
    [{ input: [] }, 400, 'input'],
    [{ input: '' }, 400, 'input'],
    [{ input: [1, 999_999] }, 400, 'input'],
    [{ input: ['fox', 'fox '.repeat(200)] }, 400, 'input.1'],
    [{ input: 'fox', dimensions: 64 }, 400, 'dimensions'],
    [{ input: 'fox', encoding_format: 'hex' }, 400, 'encoding_format'],
    [{ input: 'fox', model: 'other' }, 404, 'model'],
  ])('%j is refused by name', async (body, status, param) => {
    expect(await post('/v1/embeddings', body)).toMatchObject({
      status,
      json: { error: { param, type: 'invalid_request_error' } },
    })
  })
})

describe('POST /v1/rerank', () => {
  it('scores every document and gives the best first', async () => {
    const documents = ['fox', { text: 'walnut bread' }, 'bread']
    const { json } = await post('/v1/rerank', { query: 'walnut', documents, return_documents: true })
    const results = json['results'] as { index: number; relevance_score: number; document: { text: string } }[]
    expect(results.map(({ index }) => index).toSorted()).toEqual([0, 1, 2])
    expect(results.map(({ relevance_score: score }) => score)).toEqual(
      results.map(({ relevance_score: score }) => score).toSorted((a, b) => b - a),
    )
    expect(results.find(({ index }) => index === 1)?.document.text).toBe('walnut bread')
    const best = await post('/v1/rerank', { query: 'walnut', documents, top_n: 1 })
    expect(best.json['results']).toEqual([{ index: results[0]?.index, relevance_score: results[0]?.relevance_score }])
  })

  it.each([
    [{ query: 'x', documents: [] }, 'documents'],
    [{ query: 'x', documents: [1] }, 'documents.0'],
    [{ query: 'x', documents: ['a'], top_n: 0 }, 'top_n'],
    [{ documents: ['a'] }, 'query'],
  ])('%j is refused by name', async (body, param) => {
    expect(await post('/v1/rerank', body)).toMatchObject({ status: 400, json: { error: { param } } })
  })
})

describe('/v1/rag', () => {
  it('takes documents in, finds them at once, shows them and takes them out', async () => {
    const put = await post('/v1/rag/documents', {
      index: 'notes',
      documents: [
        { id: 'a/b c.md', text: '# Fox\n\nA fox.', metadata: { n: 1 } },
        { id: 'bread', text: 'walnut bread' },
        { id: 'bad' },
        { text: 'no id' },
        7,
        { id: 'blank', text: ' ' },
      ],
    })
    expect(put).toMatchObject({ status: 200, json: { index: 'notes', accepted: 2, chunks: 2 } })
    expect((put.json['rejected'] as { id: string }[]).map(({ id }) => id)).toEqual([
      'bad',
      'documents.3',
      'documents.4',
      'blank',
    ])
    const found = await post('/v1/rag/query', { index: 'notes', query: 'walnut bread', top_n: 1 })
    expect(found.json).toMatchObject({
      index: 'notes',
      reranked: true,
      documents: [{ id: 'bread', chunk: 0, source: 'bread', rank: 1, text: 'walnut bread' }],
    })
    const path = `/v1/rag/documents/${encodeURIComponent('a/b c.md')}?index=notes`
    expect((await call('GET', path)).json).toMatchObject({
      id: 'a/b c.md',
      metadata: { n: 1 },
      chunks: [{ text: 'A fox.', headings: ['Fox'] }],
    })
    expect((await call('GET', '/v1/rag/indexes')).json).toMatchObject({
      default: 'docs',
      indexes: [{ name: 'notes', documents: 2, chunks: 2, bundled: false }],
    })
    expect(await call('DELETE', path)).toMatchObject({ status: 200, json: { deleted: true } })
    expect(await call('DELETE', path)).toMatchObject({
      status: 404,
      json: { error: { param: 'id', code: 'document_not_found' } },
    })
    expect(await call('GET', path)).toMatchObject({ status: 404 })
    expect(await call('DELETE', '/v1/rag/indexes/notes')).toEqual({
      status: 200,
      json: { index: 'notes', deleted: true },
    })
    expect((await call('GET', '/v1/rag/indexes')).json).toMatchObject({ indexes: [] })
    expect(await call('DELETE', '/v1/rag/indexes/notes')).toMatchObject({
      status: 404,
      json: { error: { param: 'index', code: 'index_not_found' } },
    })
  })

  it.each([
    ['POST', '/v1/rag/query', { query: 'x', index: 'none' }, 404, 'index'],
    ['POST', '/v1/rag/query', { query: 'x' }, 404, 'index'],
    ['POST', '/v1/rag/query', { query: ' ', index: 'notes' }, 400, 'query'],
    ['POST', '/v1/rag/query', { query: 'x', index: 'notes', top_k: 5000 }, 400, 'top_k'],
    ['POST', '/v1/rag/query', { query: 'x', index: 'notes', filter: { n: { like: 1 } } }, 400, 'filter.n'],
    ['POST', '/v1/rag/documents', { index: '../up', documents: [{ id: 'a', text: 'a' }] }, 400, 'index'],
    ['POST', '/v1/rag/documents', { documents: [] }, 400, 'documents'],
    ['POST', '/v1/rag/documents', { documents: [{ id: 'a', text: 'x'.repeat(200_000) }] }, 413, null],
    ['GET', '/v1/rag/documents/%E0%A4%A?index=notes', undefined, 400, 'id'],
    ['GET', '/v1/rag/documents/x?index=none', undefined, 404, 'index'],
  ])('%s %s refuses by name', async (method, path, body, status, param) => {
    expect(await call(method, path, body)).toMatchObject({ status, json: { error: { param } } })
  })

  it('is in the OpenAPI document', () => {
    expect(JSON.stringify(openApiDocument('1', ['putDocuments', 'getDocument']))).toContain('/v1/rag/documents/{id}')
  })
})

describe('POST /v1/rag/files', () => {
  const put = async (name: string, content: Buffer | string) => {
    const path = `/v1/rag/files?index=files&name=${encodeURIComponent(name)}`
    const response = await app.request(path, { method: 'POST', body: new Uint8Array(Buffer.from(content)) })
    return { status: response.status, json: (await response.json()) as Record<string, unknown> }
  }

  it('takes a file of any kind that is read, under its name', async () => {
    const pdf = writePdf([[{ x: 72, y: 700, text: 'The fox bakes walnut bread.' }], null])
    expect((await put('a b#1.pdf', pdf)).json).toEqual({
      index: 'files',
      accepted: 1,
      rejected: [],
      warnings: [{ id: 'a b#1.pdf', reason: 'page 2: no text, only a scanned image; the other pages are read' }],
      chunks: 1,
    })
    const { json } = await call('GET', `/v1/rag/documents/${encodeURIComponent('a b#1.pdf')}?index=files`)
    expect(json['chunks']).toMatchObject([{ headings: ['Page 1'], text: 'The fox bakes walnut bread.' }])
    expect((await put('lines.jsonl', '{"id": "l1", "text": "fox"}\nno\n')).json).toMatchObject({
      accepted: 1,
      rejected: [{ id: 'lines.jsonl:2', reason: 'expected a JSON object' }],
      warnings: [],
    })
    expect((await put('menu.txt', Buffer.from('caf\xe9', 'latin1'))).json).toMatchObject({
      accepted: 1,
      rejected: [],
      warnings: [{ id: 'menu.txt', reason: 'the text is not UTF-8; it is read as Windows-1252' }],
    })
    // Spaces of that encoding only: not indexed, so without a warning.
    expect((await put('blank.txt', Buffer.from([0xa0, 0xa0]))).json).toMatchObject({
      accepted: 0,
      rejected: [{ id: 'blank.txt' }],
      warnings: [],
    })
    expect((await put('photo.png', Buffer.from([0x89, 0xff]))).json).toMatchObject({
      accepted: 0,
      rejected: [{ id: 'photo.png', reason: expect.stringMatching(/^expected UTF-8 text; the kinds that are read/) }],
    })
  })

  it('refuses what is no name, and no bytes', async () => {
    for (const [name, content, param] of [
      ['', 'x', 'name'],
      ['..', 'x', 'name'],
      ['a.md', '', null],
    ] as const) {
      expect(await put(name, content)).toMatchObject({ status: 400, json: { error: { param } } })
    }
  })
})

describe('documents as JSON lines', () => {
  const postLines = async (
    path: string,
    lines: readonly (string | Uint8Array)[],
    type = 'application/x-ndjson',
  ): Promise<{ status: number; json: Record<string, unknown> }> => {
    const body = new Blob(lines.flatMap((line, i) => (i === 0 ? [line] : ['\n', line])))
    const init = { method: 'POST', headers: { 'content-type': type }, body: await body.arrayBuffer() }
    const response = await app.request(path, init)
    return { status: response.status, json: (await response.json()) as Record<string, unknown> }
  }
  const document = (id: string | number, text = 'walnut bread') => JSON.stringify({ id, text })

  it('puts what it can into the index and says of each other line why not', async () => {
    const { status, json } = await postLines('/v1/rag/documents?index=lines', [
      '\ufeff' + document('first'),
      '',
      '{"id": "torn", "text": "fo',
      document(7),
      '   \r',
      Buffer.from([0x7b, 0xff, 0x7d]),
      '["no object"]',
      JSON.stringify({ id: 'untitled', text: 5 }),
      JSON.stringify({ id: 'deep', text: 'x', metadata: { a: { b: 1 } } }),
      document('blank', ' '),
      document('a\u0001b'),
      '['.repeat(500),
      JSON.stringify({ id: 'page', text: '<h1>Fox</h1><p>A fox.</p>', format: 'html', metadata: { n: 1 } }) + '\r',
    ])
    expect(status).toBe(200)
    expect(json).toMatchObject({ index: 'lines', accepted: 3, chunks: 3 })
    expect(json['rejected']).toEqual([
      { id: 'line 3', line: 3, reason: expect.stringMatching(/^line 3: expected JSON, found something else/) },
      { id: 'line 6', line: 6, reason: 'line 6: expected UTF-8 text' },
      { id: 'line 7', line: 7, reason: 'line 7: expected a JSON object, found an array of 1' },
      { id: 'untitled', line: 8, reason: 'text: expected a string, found the number 5' },
      {
        id: 'deep',
        line: 9,
        reason:
          'metadata (one of its values): expected a string, a number, a boolean, null or a list of them, found an object',
      },
      { id: 'blank', line: 10, reason: 'text: expected text, found none' },
      { id: 'a\u0001b', line: 11, reason: expect.stringMatching(/^id: expected .* no control characters/) },
      { id: 'line 12', line: 12, reason: 'line 12: expected at most 128 levels of nesting, found more' },
    ])
    expect((await rag.getDocument('lines', '7')).chunks[0]?.text).toBe('walnut bread')
    expect((await rag.getDocument('lines', 'page')).chunks[0]).toMatchObject({ text: 'A fox.', headings: ['Fox'] })
  })

  it('takes any number of batches, and the last of several versions of a document', async () => {
    const versions = Array.from({ length: 140 }, (_, i) => document(`d${i % 100}`, `walnut number ${i}`))
    const { json } = await postLines('/v1/rag/documents?index=batches', versions, 'application/jsonl; charset=utf-8')
    expect(json).toMatchObject({ accepted: 140, rejected: [], chunks: 140 })
    expect((await rag.getDocument('batches', 'd3')).chunks[0]?.text).toBe('walnut number 103')
    const again = await postLines('/v1/rag/documents?index=batches', versions.slice(100))
    expect(again.json).toMatchObject({ accepted: 40, chunks: 0 })
  })

  it('works on the first lines before the last have come, and reads no faster than it works', async () => {
    const embed = vi.spyOn(rag.embedder, 'embed')
    let sent = 0
    const body = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          if (sent === 128) {
            // Two batches of 64: at least the first must have been embedded for these bytes to be asked for.
            expect(embed.mock.calls.length).toBeGreaterThanOrEqual(64)
            controller.close()
          } else controller.enqueue(Buffer.from(`${document(`s${sent++}`)}\n`))
        },
      },
      { highWaterMark: 0 },
    )
    const init = { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body, duplex: 'half' as const }
    const response = await app.request('/v1/rag/documents?index=streamed', init)
    embed.mockRestore()
    expect(await response.json()).toMatchObject({ accepted: 128, rejected: [] })
  })

  it.each([
    ['?index=..', [document('a')], 400, 'index', /^index: expected/],
    ['?index=none', ['', ' '], 400, null, /expected JSON lines, found none/],
    ['?index=large', Array.from({ length: 11 }, (_, i) => document(i, 'x'.repeat(9_990))), 413, null, /100000 bytes/],
    [
      '?index=many',
      Array.from({ length: 10_001 }, () => '1'),
      400,
      null,
      /^line 10001: expected at most 10000 lines in a request, found more$/,
    ],
  ])('are refused as a whole: %s', async (query, lines, status, param, message) => {
    expect(await postLines(`/v1/rag/documents${query}`, lines)).toMatchObject({
      status,
      json: { error: { param, message: expect.stringMatching(message) } },
    })
  })

  describe('that end early leave what came before in the index, and tell how much that is', () => {
    const NUM_DOCUMENTS = 70
    const good = Array.from({ length: NUM_DOCUMENTS }, (_, i) => document(`d${i}`, 'fox'))
    const numFound = async (index: string): Promise<number> => {
      const found = await Promise.allSettled(good.map((_, i) => rag.getDocument(index, `d${i}`)))
      return found.filter(({ status }) => status === 'fulfilled').length
    }
    const ACCEPTED = '; 70 documents of the request were accepted and stay in the index'

    it('of too many lines', async () => {
      const lines = [...good, ...Array.from({ length: 10_001 - NUM_DOCUMENTS }, () => '1')]
      const { status, json } = await postLines('/v1/rag/documents?index=too-many', lines)
      expect([status, json]).toEqual([
        400,
        {
          error: expect.objectContaining({ message: expect.stringMatching(new RegExp(`^line 10001: .*${ACCEPTED}$`)) }),
        },
      ])
      expect(await numFound('too-many')).toBe(NUM_DOCUMENTS)
    })

    it.each([
      ['too large', 413, () => Buffer.alloc(100_000)],
      ['cut short', 499, () => null],
    ])('of a body that is %s', async (_, status, more) => {
      const parts = [...good.map((line) => Buffer.from(`${line}\n`)), Buffer.from('{"id": "half'), more()]
      const body = new ReadableStream<Uint8Array>(
        {
          pull(controller) {
            const part = parts.shift()
            if (part) controller.enqueue(part)
            else controller.error(new Error('connection lost'))
          },
        },
        { highWaterMark: 0 },
      )
      const init = {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson' },
        body,
        duplex: 'half' as const,
      }
      const response = await app.request(`/v1/rag/documents?index=ended-${status}`, init)
      expect(response.status).toBe(status)
      expect(((await response.json()) as { error: { message: string } }).error.message).toContain(ACCEPTED)
      expect(await numFound(`ended-${status}`)).toBe(NUM_DOCUMENTS)
    })

    it('by a model that fails, as a list too', async () => {
      const original = rag.embedder.embed
      const embed = vi.spyOn(rag.embedder, 'embed').mockImplementation(async (texts, options) => {
        if (texts.some((text) => text.includes('fatal'))) throw new RagError('model_unavailable', 'the model died')
        return original(texts, options)
      })
      const lines = [...good.slice(0, 5), document('bad', 'fatal'), ...good.slice(5)]
      const asLines = await postLines('/v1/rag/documents?index=failed-lines', lines)
      const documents = lines.map((line) => JSON.parse(line) as unknown)
      const asList = await post('/v1/rag/documents', { index: 'failed-list', documents })
      embed.mockRestore()
      for (const [index, { status, json }] of [
        ['failed-lines', asLines],
        ['failed-list', asList],
      ] as const) {
        const found = await numFound(index)
        expect(found).toBeGreaterThanOrEqual(4)
        expect(found).toBeLessThan(8)
        expect([status, json['error']]).toMatchObject([
          503,
          {
            code: 'model_unavailable',
            message: `the embedding or reranking model cannot be used; ${found} documents of the request were accepted and stay in the index`,
          },
        ])
      }
    })
  })

  it('count their blank lines, of which there may be any number', async () => {
    const { json } = await postLines('/v1/rag/documents?index=unmade', ['\n \r\n'.repeat(20_000), 'x'])
    expect(json).toMatchObject({ rejected: [{ line: 40_002 }] })
  })

  it('let others have the thread, however many bad ones come at once', async () => {
    let turns = 0
    let isDone = false
    const count = (): void => {
      turns++
      if (!isDone) setImmediate(count)
    }
    const lines = Array.from({ length: 3000 }, (_, i) => `{"id": ${i}, "text": 5}`)
    setImmediate(count)
    const { json } = await postLines('/v1/rag/documents?index=unmade', lines)
    const list = await post('/v1/rag/documents', { index: 'unmade', documents: lines.map((line) => JSON.parse(line)) })
    isDone = true
    expect(json['rejected']).toHaveLength(3000)
    expect(list.json['rejected']).toHaveLength(3000)
    // Without slices there is none.
    expect(turns).toBeGreaterThan(4)
  })

  it('make no index when there is no document in them', async () => {
    const { json } = await postLines('/v1/rag/documents?index=unmade', ['not JSON'])
    expect(json).toMatchObject({ accepted: 0, rejected: [{ line: 1 }] })
    await expect(rag.getDocument('unmade', 'a')).rejects.toMatchObject({ code: 'index_not_found' })
  })

  it('are in the OpenAPI document', () => {
    expect(JSON.stringify(openApiDocument('1', ['putDocuments', 'getDocument']))).toContain('application/x-ndjson')
  })
})

describe('a client that goes away', () => {
  it('ends its ingestion between documents; what was accepted stays', async () => {
    const controller = new AbortController()
    const original = rag.embedder.embed
    const embed = vi.spyOn(rag.embedder, 'embed').mockImplementation(async (texts, options) => {
      const embedded = await original(texts, options)
      controller.abort()
      return embedded
    })
    const documents = Array.from({ length: 8 }, (_, i) => ({ id: `d${i}`, text: 'fox' }))
    const { status } = await app.request('/v1/rag/documents', {
      method: 'POST',
      body: JSON.stringify({ index: 'left', documents }),
      signal: controller.signal,
    })
    embed.mockRestore()
    expect(status).toBe(499)
    const found = await Promise.allSettled(documents.map(({ id }) => rag.getDocument('left', id)))
    const accepted = found.filter(({ status }) => status === 'fulfilled').length
    expect(accepted).toBeGreaterThanOrEqual(1)
    expect(accepted).toBeLessThan(4)
  })
})
