import { createHash } from 'node:crypto'
import {
  cpSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { goldenPath } from '../../../test/golden/golden.ts'
import { ModelError } from '../runner/runner.ts'
import { chooseFiles, fetchAdapter, fetchModel } from './hub.ts'

const SHA = 'a'.repeat(40)
let cacheDir = ''
let hub: HubStandIn

/** A hub on loopback, with the API, HEAD with etag and size, ranges, and a hub's failures. */
class HubStandIn {
  readonly files = new Map<string, Buffer>()
  readonly requests: string[] = []
  readonly ranges: string[] = []
  /** The weights are sent only when that many requests for them have come. */
  together = 0
  readonly #held: (() => void)[] = []
  token: string | null = null
  /** Bytes of a response body after which the connection is cut, for the next `cuts` bodies of large files. */
  cutAfter = 0
  cuts = 0
  etagOverride: string | null = null
  ignoresRanges = false
  readonly #server: Server

  constructor() {
    this.#server = createServer((request, response) => void this.#answer(request, response))
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return this.endpoint
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close(): Promise<void> {
    this.#server.closeAllConnections()
    return new Promise((resolve) => this.#server.close(() => resolve()))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? ''
    this.requests.push(`${request.method} ${path}`)
    if (this.token !== null && request.headers.authorization !== `Bearer ${this.token}`)
      return void response.writeHead(401).end()
    if (path === '/api/models/org/tiny/revision/main') {
      const siblings = [...this.files.keys()].map((rfilename) => ({ rfilename }))
      return void response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(JSON.stringify({ sha: SHA, siblings }))
    }
    // The hub serves small files from a cache of its own.
    if (path === `/org/tiny/resolve/${SHA}/config.json`)
      return void response.writeHead(307, { location: '/api/resolve-cache/config.json' }).end()
    const name = path.replace(`/org/tiny/resolve/${SHA}/`, '').replace('/api/resolve-cache/', '')
    const content = this.files.get(name)
    if (content === undefined) return void response.writeHead(404).end('not found')
    const own = createHash('sha256').update(content).digest('hex')
    const etag = request.method === 'GET' && this.etagOverride !== null ? this.etagOverride : own
    const headers = { etag: `"${etag}"`, 'accept-ranges': 'bytes' }
    if (request.method === 'HEAD')
      return void response.writeHead(200, { ...headers, 'content-length': content.length }).end()
    const range = this.ignoresRanges ? undefined : /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1]
    if (request.headers.range !== undefined) this.ranges.push(request.headers.range)
    if (name === 'model.safetensors' && this.#held.length < this.together)
      await new Promise<void>((resolve) => {
        if (this.#held.push(resolve) === this.together) for (const go of this.#held) go()
      })
    const body = content.subarray(Number(range ?? 0))
    response.writeHead(range === undefined ? 200 : 206, { ...headers, 'content-length': body.length })
    if (this.cuts > 0 && body.length > this.cutAfter) {
      this.cuts--
      response.write(body.subarray(0, this.cutAfter), () => response.destroy())
    } else response.end(body)
  }
}

beforeEach(async () => {
  cacheDir = mkdtempSync(join(tmpdir(), 'miniserve-hub-'))
  hub = new HubStandIn()
  await hub.listen()
  for (const file of readdirSync(goldenPath('tiny-text')))
    hub.files.set(file, readFileSync(`${goldenPath('tiny-text')}/${file}`))
  hub.files.set('README.md', Buffer.from('not needed'))
  hub.files.set('pytorch_model.bin', Buffer.from('not needed'))
})
afterEach(async () => {
  await hub.close()
  rmSync(cacheDir, { recursive: true })
})

const options = (overrides: object = {}) => ({
  cacheDir,
  token: null,
  endpoint: hub.endpoint,
  offline: false,
  ...overrides,
})

test('a model is downloaded into the standard layout with progress, and afterwards served without the network', async () => {
  const progress: [number, number][] = []
  const { path, name } = await fetchModel(
    'org/tiny',
    options({ onProgress: (done: number, total: number) => progress.push([done, total]) }),
  )
  expect(name).toBe('org/tiny')
  expect(path).toBe(join(cacheDir, 'models--org--tiny', 'snapshots', SHA))
  expect(readdirSync(path).sort()).toEqual([
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ])
  const weights = hub.files.get('model.safetensors')!
  const blob = createHash('sha256').update(weights).digest('hex')
  expect(readlinkSync(join(path, 'model.safetensors'))).toBe(join('..', '..', 'blobs', blob))
  expect(readFileSync(join(path, 'model.safetensors'))).toEqual(weights)
  expect(readFileSync(join(cacheDir, 'models--org--tiny', 'refs', 'main'), 'utf8')).toBe(SHA)
  const total = readdirSync(path).reduce((sum, file) => sum + hub.files.get(file)!.length, 0)
  expect(progress.at(-1)).toEqual([total, total])
  expect(progress.every(([done], i) => i === 0 || done >= progress[i - 1]![0])).toBe(true)

  const before = hub.requests.length
  expect((await fetchModel('org/tiny', options({ offline: true }))).path).toBe(path)
  expect((await fetchModel('org/tiny', options({ endpoint: 'http://127.0.0.1:9' }))).path).toBe(path)
  expect(hub.requests.length).toBe(before)
  // A blob that was removed makes the snapshot incomplete: it is fetched again.
  rmSync(join(cacheDir, 'models--org--tiny', 'blobs', blob))
  await fetchModel('org/tiny', options())
  expect(
    hub.requests.slice(before).filter((request) => request.startsWith('GET') && request.includes('resolve')),
  ).toEqual([`GET /org/tiny/resolve/${SHA}/model.safetensors`])
})

test('an interrupted download continues where it stopped, within a start and across starts', async () => {
  hub.cutAfter = 20_000
  hub.cuts = 1
  const { path } = await fetchModel('org/tiny', options())
  expect(hub.ranges).toEqual(['bytes=20000-'])
  expect(readFileSync(join(path, 'model.safetensors'))).toEqual(hub.files.get('model.safetensors'))

  rmSync(cacheDir, { recursive: true })
  mkdirSync(cacheDir)
  hub.ranges.length = 0
  hub.cutAfter = 5_000
  hub.cuts = 100
  await expect(fetchModel('org/tiny', options())).rejects.toThrow(
    /stopped after 20000 of \d+ bytes.*Start again to continue/,
  )
  hub.cuts = 0
  expect(readFileSync(join((await fetchModel('org/tiny', options())).path, 'model.safetensors'))).toEqual(
    hub.files.get('model.safetensors'),
  )
  expect(hub.ranges.at(-1)).toMatch(/^bytes=\d+-$/)
  expect(
    readdirSync(join(cacheDir, 'models--org--tiny', 'blobs')).filter((name) => name.endsWith('.incomplete')),
  ).toEqual([])
})

test('a file is downloaded again from its beginning if the server cannot continue', async () => {
  hub.ignoresRanges = true
  hub.cutAfter = 20_000
  hub.cuts = 1
  const { path } = await fetchModel('org/tiny', options())
  expect(readFileSync(join(path, 'model.safetensors'))).toEqual(hub.files.get('model.safetensors'))
})

test('starts that download the same files into one cache at once get them whole', async () => {
  hub.together = 3
  const models = await Promise.all(Array.from({ length: 3 }, () => fetchModel('org/tiny', options())))
  const names = readdirSync(models[0]!.path)
  for (const name of names) expect(readFileSync(join(models[0]!.path, name)), name).toEqual(hub.files.get(name))
  expect(readdirSync(join(cacheDir, 'models--org--tiny', 'blobs'))).toHaveLength(names.length)
  expect(names).toHaveLength(5)
})

test('a file that changed, or arrives damaged, is never served', async () => {
  hub.etagOverride = 'b'.repeat(64)
  await expect(fetchModel('org/tiny', options())).rejects.toThrow(/org\/tiny changed on .* while it was downloaded/)
  hub.etagOverride = null
  // A partial file of another version: the whole then has the right size and a wrong hash.
  const weights = hub.files.get('model.safetensors')!
  const blobs = join(cacheDir, 'models--org--tiny', 'blobs')
  mkdirSync(blobs, { recursive: true })
  const etag = createHash('sha256').update(weights).digest('hex')
  writeFileSync(join(blobs, `${etag}.incomplete`), Buffer.alloc(1000, 7))
  await expect(fetchModel('org/tiny', options())).rejects.toThrow(
    /model.safetensors arrived damaged: expected [0-9a-f]{64}, found sha256/,
  )
  expect(readdirSync(blobs)).not.toContain(etag)
  expect(readFileSync(join((await fetchModel('org/tiny', options())).path, 'model.safetensors'))).toEqual(weights)
})

test('the token is sent; the errors without it, for a wrong name, a dead hub and offline each say what to do', async () => {
  hub.token = 'secret'
  const rejected = fetchModel('org/tiny', options())
  await expect(rejected).rejects.toThrow(ModelError)
  await expect(rejected).rejects.toThrow(/refuses org\/tiny \(401\).*set HF_TOKEN/)
  await expect(fetchModel('org/tiny', options({ token: 'wrong' }))).rejects.not.toThrow('wrong')
  expect(
    lstatSync(join((await fetchModel('org/tiny', options({ token: 'secret' }))).path, 'config.json')).isSymbolicLink(),
  ).toBe(true)
  hub.token = null
  await expect(fetchModel('org/absent', options())).rejects.toThrow(
    /has no api\/models\/org\/absent\/revision\/main \(404\). Check the name org\/absent/,
  )
  await expect(fetchModel('org/absent', options({ endpoint: 'http://127.0.0.1:9' }))).rejects.toThrow(
    /127.0.0.1:9 cannot be reached/,
  )
  await expect(fetchModel('org/absent', options({ offline: true }))).rejects.toThrow(
    /not \(completely\) in the cache .* HF_HUB_OFFLINE is set/,
  )
  await expect(fetchModel('../nowhere/at/all', options())).rejects.toThrow(/no such folder or file, and not a hub id/)
})

test('folders and .gguf files are used as they are', async () => {
  const folder = join(cacheDir, 'my-model')
  cpSync(goldenPath('tiny-text'), folder, { recursive: true })
  expect(await fetchModel(folder, options())).toEqual({ path: folder, name: 'my-model' })
  writeFileSync(join(cacheDir, 'a.Q4_K_M.gguf'), 'GGUF')
  expect((await fetchModel(join(cacheDir, 'a.Q4_K_M.gguf'), options())).name).toBe('a.Q4_K_M')
})

test('an adapter is its two files or a GGUF file; anything else is refused', async () => {
  hub.files.set('adapter_config.json', Buffer.from('{}'))
  await expect(fetchAdapter('hf:org/tiny', options())).rejects.toThrow(
    /org\/tiny has no adapter that can be served: expected adapter_config.json and adapter_model.safetensors/,
  )
  hub.files.set('adapter_model.safetensors', Buffer.from('weights'))
  const path = await fetchAdapter('hf:org/tiny', options())
  expect(readdirSync(path).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
  const asked = hub.requests.length
  expect(await fetchAdapter('hf:org/tiny', options({ offline: true }))).toBe(path)
  expect(hub.requests).toHaveLength(asked)
  // This does not make the same repository's model complete.
  await expect(fetchModel('org/tiny', options({ offline: true }))).rejects.toThrow(/not \(completely\) in the cache/)
  for (const name of ['a-F16.gguf', 'a-Q8_0.gguf']) hub.files.set(name, Buffer.from('GGUF'))
  expect(await fetchAdapter('hf:org/tiny:q8_0', options())).toMatch(/a-Q8_0\.gguf$/)
  await expect(fetchAdapter('hf:org/tiny:Q4_0', options())).rejects.toThrow(/with Q4_0 in its name; it has a-F16.gguf/)
  expect(await fetchAdapter(cacheDir, options())).toBe(cacheDir)
  expect(await fetchAdapter('./no/such/adapter', options())).toBe('./no/such/adapter')
})

test('the files of a repository', () => {
  const shards = [
    'model-00001-of-00002.safetensors',
    'model-00002-of-00002.safetensors',
    'model.safetensors.index.json',
  ]
  const chosen = chooseFiles(
    'o/n',
    [
      'config.json',
      '1_Pooling/config.json',
      'original/model.safetensors',
      'consolidated.safetensors',
      'onnx/model.onnx',
      ...shards,
    ],
    null,
  )
  expect(chosen.files.sort()).toEqual(['config.json', '1_Pooling/config.json', ...shards].sort())
  const ggufs = ['n.Q2_K.gguf', 'n.Q8_0.gguf', 'n.Q4_K_M.gguf', 'mmproj-n.gguf', 'n-F16-00001-of-00002.gguf']
  expect(chooseFiles('o/n', ggufs, null).gguf).toBe('n.Q4_K_M.gguf')
  expect(chooseFiles('o/n', ggufs, 'q8_0').gguf).toBe('n.Q8_0.gguf')
  // All parts of a split file are chosen if the listing has all of them.
  expect(() => chooseFiles('o/n', ggufs, 'F16')).toThrow(/no GGUF file with F16/)
  const parts = ['n-F16-00001-of-00002.gguf', 'n-F16-00002-of-00002.gguf']
  expect(chooseFiles('o/n', [...ggufs, ...parts.slice(1)], 'F16')).toEqual({ files: parts, gguf: parts[0] })
  expect(() => chooseFiles('o/n', ggufs, 'Q3_K')).toThrow(
    /o\/n has no GGUF file with Q3_K in its name; it has n.Q2_K.gguf/,
  )
  expect(() => chooseFiles('o/n', ['pytorch_model.bin'], null)).toThrow(
    /o\/n has no weights that can be served: expected model.safetensors/,
  )
})
