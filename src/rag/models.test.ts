import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MINILM_L6, TINY, writeBertFolder } from '../../test/rag/onnx-bert.ts'
import { resolveModel } from './models.ts'
import { createModelWorkers } from './model-workers.ts'

const HUB = {
  hub: { cacheDir: '', endpoint: 'http://127.0.0.1:9', token: null, offline: false },
  downloadDir: '',
  device: 'cpu' as const,
  threads: 1,
}
const TEXTS = [
  'a walnut loaf',
  'the scheduler preempts a sequence when blocks run out',
  'fox',
  'a walnut loaf and a fox',
]
const WORDS = [...new Set(TEXTS.flatMap((text) => text.split(' ')))]

let folder = ''
let models: ReturnType<typeof createModelWorkers>
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-models-'))
  HUB.hub.cacheDir = join(folder, 'hub')
  HUB.downloadDir = join(folder, 'downloads')
  models = createModelWorkers()
})
afterAll(async () => {
  await models.close()
  rmSync(folder, { recursive: true })
})

const dot = (a: Float32Array, b: Float32Array): number => a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0)
const rows = (vectors: Float32Array, dimensions: number): Float32Array[] =>
  Array.from({ length: vectors.length / dimensions }, (_, i) => vectors.slice(i * dimensions, (i + 1) * dimensions))

describe("the models' process", () => {
  it('loads the models as often as it is started', async () => {
    const path = writeBertFolder(folder, 'again', { words: WORDS })
    for (let i = 0; i < 2; i++) {
      const own = createModelWorkers()
      const { vectors } = await own.embedder(resolveModel(path, '', HUB)).embed(['fox'], { role: 'query' })
      expect(vectors).toHaveLength(TINY.hidden)
      await own.close()
    }
  })
})

describe('the embedding model', () => {
  it('returns normalised vectors in the order of the texts, independent of the batch', async () => {
    const path = writeBertFolder(folder, 'tiny-embedder', { words: WORDS })
    const embedder = models.embedder(resolveModel(path, '--embedding-model', HUB))
    const { dimensions, maxTokens, fingerprint } = await embedder.load()
    expect([dimensions, maxTokens]).toEqual([TINY.hidden, TINY.maxPositions])
    expect(fingerprint).toMatch(/^tiny-embedder@[0-9a-f]{12}$/)
    const many = Array.from({ length: 37 }, (_, i) => TEXTS[i % TEXTS.length] ?? '')
    const { vectors, numTokens } = await embedder.embed(many, { role: 'document' })
    const batch = rows(vectors, dimensions)
    for (const [i, text] of TEXTS.entries()) {
      const alone = await embedder.embed([text], { role: 'query' })
      expect(dot(alone.vectors, alone.vectors)).toBeCloseTo(1, 5)
      expect(dot(alone.vectors, batch[i] ?? alone.vectors)).toBeCloseTo(1, 4)
      expect(alone.numTokens[0]).toBe(numTokens[i])
      expect(numTokens[i]).toBe(text.split(' ').length + 2)
    }
    const [loaf, , fox, both] = batch
    if (!loaf || !fox || !both) throw new Error('three vectors')
    expect(dot(loaf, both)).toBeGreaterThan(dot(loaf, fox))
    expect(await embedder.countTokens(TEXTS)).toEqual(TEXTS.map((text) => text.split(' ').length))
    const id = 7
    expect(await embedder.decode([[id], [99_999]])).toEqual([expect.any(String), null])
  })

  it('stops when aborted, and a query overtakes a waiting ingestion', async () => {
    const embedder = models.embedder(resolveModel(join(folder, 'tiny-embedder'), '--embedding-model', HUB))
    const order: string[] = []
    const controller = new AbortController()
    const ingestion = Promise.all(
      Array.from({ length: 5 }, () =>
        embedder.embed(TEXTS, { role: 'document', signal: controller.signal }).then(() => order.push('document')),
      ),
    )
    await embedder.embed(['fox'], { role: 'query' }).then(() => order.push('query'))
    expect(order.indexOf('query')).toBeLessThan(2)
    await ingestion
    const aborted = embedder.embed(TEXTS, { role: 'document', signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(aborted).rejects.toThrow('enough')
    await expect(embedder.embed(TEXTS, { role: 'query', signal: controller.signal })).rejects.toThrow('enough')
  })

  it('follows the pooling and the prompts that sentence-transformers stores', async () => {
    const path = writeBertFolder(folder, 'cls-embedder', { words: WORDS })
    const plain = models.embedder(resolveModel(join(folder, 'tiny-embedder'), '--embedding-model', HUB))
    mkdirSync(join(path, '1_Pooling'))
    writeFileSync(join(path, '1_Pooling', 'config.json'), '{"pooling_mode_cls_token": true}')
    writeFileSync(join(path, 'config_sentence_transformers.json'), '{"prompts": {"query": "fox "}}')
    writeFileSync(join(path, 'sentence_bert_config.json'), '{"max_seq_length": 16}')
    const embedder = models.embedder(resolveModel(path, '--embedding-model', HUB))
    expect((await embedder.load()).maxTokens).toBe(16)
    const [asQuery, asDocument, mean] = await Promise.all([
      embedder.embed(['walnut'], { role: 'query' }),
      embedder.embed(['walnut'], { role: 'document' }),
      plain.embed(['walnut'], { role: 'document' }),
    ])
    expect([asQuery.numTokens, asDocument.numTokens]).toEqual([[4], [3]])
    expect(dot(asDocument.vectors, mean.vectors)).toBeLessThan(0.999)
    const long = await embedder.embed(['walnut '.repeat(50)], { role: 'document' })
    expect(long.numTokens).toEqual([16])
  })

  it.each(['null', '[]', '{"max'])('names a file of settings that contains %s', async (content) => {
    const path = writeBertFolder(folder, 'bad-embedder', { words: WORDS })
    writeFileSync(join(path, 'sentence_bert_config.json'), content)
    const embedder = models.embedder(resolveModel(path, '--embedding-model', HUB))
    await expect(embedder.load()).rejects.toThrow(/sentence_bert_config\.json: .*expected/)
  })
})

const passage = (text: string) => ({ headings: [], text })

describe('the reranking model', () => {
  it('returns the relevance of each document in order', async () => {
    const path = writeBertFolder(folder, 'tiny-reranker', { isClassifier: true, words: WORDS })
    const reranker = models.reranker(resolveModel(path, '--reranker-model', HUB))
    const many = Array.from({ length: 19 }, (_, i) => TEXTS[i % TEXTS.length] ?? '')
    const { scores, numTokens } = await reranker.rerank('walnut fox', many.map(passage))
    expect(numTokens).toBeGreaterThan(many.length * 5)
    for (const [i, text] of TEXTS.entries()) {
      const alone = await reranker.rerank('walnut fox', [passage(text)])
      expect(alone.scores[0]).toBeCloseTo(scores[i] ?? NaN, 4)
      expect(alone.scores[0]).toBeGreaterThan(0)
      expect(alone.scores[0]).toBeLessThan(1)
    }
    expect(new Set(scores).size).toBeGreaterThan(2)
  })

  it('takes no longer than its signal allows', async () => {
    const reranker = models.reranker(resolveModel(join(folder, 'tiny-reranker'), '--reranker-model', HUB))
    const controller = new AbortController()
    const late = reranker.rerank('fox', TEXTS.map(passage), { signal: controller.signal })
    controller.abort(new Error('over budget'))
    await expect(late).rejects.toThrow('over budget')
    expect((await reranker.rerank('fox', TEXTS.map(passage))).scores).toHaveLength(TEXTS.length)
  })
})

describe('a hub id', () => {
  it('is found in the cache of other tools', async () => {
    const repository = join(HUB.hub.cacheDir, 'models--some--cached')
    mkdirSync(join(repository, 'refs'), { recursive: true })
    writeFileSync(join(repository, 'refs', 'main'), 'abc123\n')
    writeBertFolder(join(repository, 'snapshots'), 'abc123')
    const embedder = models.embedder(resolveModel('some/cached', '--embedding-model', HUB))
    expect(embedder.name).toBe('some/cached')
    expect((await embedder.load()).dimensions).toBe(TINY.hidden)
  })
})

describe('a hub', () => {
  it('is asked once: downloads work offline afterwards, and none is incomplete', async () => {
    const files = writeBertFolder(folder, 'on-the-hub', { words: WORDS })
    const asked: string[] = []
    let isStalled = true
    const hub = createServer((request, response) => {
      const file = request.url?.split('/some/remote/resolve/main/')[1] ?? ''
      asked.push(file)
      const path = join(files, file)
      if (!existsSync(path)) response.writeHead(404).end()
      else if (isStalled && file.endsWith('.onnx')) {
        const content = readFileSync(path)
        response.writeHead(200, { 'content-length': content.length }).write(content.subarray(0, 1000))
        hub.emit('stalled')
      } else response.end(readFileSync(path))
    })
    try {
      await once(hub.listen(0, '127.0.0.1'), 'listening')
      const address = hub.address()
      const endpoint = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
      const downloadDir = join(folder, 'hub-downloads')
      const source = (offline: boolean) =>
        resolveModel('some/remote', '', { ...HUB, downloadDir, hub: { ...HUB.hub, endpoint, offline } })
      const own = createModelWorkers()
      const stalled = own.embedder(source(false)).load()
      await Promise.all([
        once(hub, 'stalled'),
        expect(stalled).rejects.toThrow('was closed'),
        once(hub, 'stalled').then(() => own.close()),
      ])
      expect(existsSync(join(downloadDir, 'some', 'remote', 'onnx'))).toBe(false)
      isStalled = false
      expect(await models.embedder(source(false)).load()).toMatchObject({ dimensions: TINY.hidden })
      expect(readdirSync(join(downloadDir, 'some', 'remote', 'onnx'))).toEqual(['model.onnx'])
      const again = createModelWorkers()
      asked.length = 0
      // A cached file is not asked for; that there is no quantized model is not cached.
      expect(await again.embedder(source(false)).load()).toMatchObject({ dimensions: TINY.hidden })
      expect(asked.filter((file) => existsSync(join(files, file)))).toEqual([])
      await again.close()
      const offline = createModelWorkers()
      asked.length = 0
      expect(await offline.embedder(source(true)).load()).toMatchObject({ dimensions: TINY.hidden })
      expect(asked).toEqual([])
      await offline.close()
    } finally {
      hub.closeAllConnections()
      hub.close()
    }
  })
})

describe('a model that cannot be loaded', () => {
  it.each([
    ['nowhere', '--embedding-model: nowhere is neither a folder, nor a .gguf file, nor a hub id'],
    ['', 'has no config.json'],
  ])('is refused by name: %j', (location, message) => {
    const at = location === '' ? folder : location
    expect(() => resolveModel(at, '--embedding-model', HUB)).toThrow(message)
  })

  it('reports what is wrong with a folder or a hub, and can be tried again', async () => {
    const broken = writeBertFolder(folder, 'broken')
    writeFileSync(join(broken, 'onnx', 'model.onnx'), 'no onnx')
    for (const [location, hub, message] of [
      [broken, HUB, /embedding model broken cannot be loaded/],
      ['some/model', HUB, /must be on http:\/\/127\.0\.0\.1:9 with ONNX weights/],
      ['some/model', { ...HUB, hub: { ...HUB.hub, offline: true } }, /HF_HUB_OFFLINE is set/],
    ] as const) {
      const embedder = models.embedder(resolveModel(location, '--embedding-model', hub))
      await expect(embedder.load()).rejects.toMatchObject({
        code: 'model_unavailable',
        message: expect.stringMatching(message),
      })
    }
    writeBertFolder(folder, 'broken')
    expect((await models.embedder(resolveModel(broken, '', HUB)).load()).dimensions).toBe(TINY.hidden)
  })
})

describe.runIf(process.env['MINISERVE_TEST_LEVEL'] === 'full')('common models', () => {
  it('all-MiniLM-L6-v2 and ms-marco-MiniLM-L-6-v2 load and run', async () => {
    const options = { shape: MINILM_L6, words: WORDS }
    const embedder = models.embedder(resolveModel(writeBertFolder(folder, 'minilm', options), '', HUB))
    expect(await embedder.load()).toMatchObject({ dimensions: 384, maxTokens: 512 })
    const path = writeBertFolder(folder, 'ms-marco', { ...options, isClassifier: true })
    const { scores } = await models.reranker(resolveModel(path, '', HUB)).rerank('fox', TEXTS.map(passage))
    expect(scores).toHaveLength(TEXTS.length)
  })
})
