import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  cpSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { forcedDecode, goldenPath, goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { hasAdapter } from '../../kernels/webgpu/device.ts'
import { loadModel } from '../runner/model.ts'
import type { ModelRequest } from '../runner/runner.ts'
import { WriteBehind } from './write-behind.ts'

const GGUF = fileURLToPath(new URL('../../../test/golden/gguf/olmo2.gguf', import.meta.url))
const FOOTER_BYTES = 8
const isFull = process.env.MINISERVE_TEST_LEVEL === 'full'

let cacheDir = ''
beforeEach(() => (cacheDir = mkdtempSync(join(tmpdir(), 'miniserve-packed-'))))
afterEach(() => rmSync(cacheDir, { recursive: true }))

const files = () => readdirSync(join(cacheDir, 'weights')).map((name) => join(cacheDir, 'weights', name))

/** Loads a model and decodes with it. Also returns the total bytes that the load reported. */
async function start(overrides: Partial<ModelRequest>, name = 'olmo2') {
  const golden = readGolden(name)
  let total = 0
  const model = await loadModel(goldenRequest(name, { cacheDir, ...overrides }), (_, bytes) => (total = bytes))
  try {
    const { logits } = await forcedDecode(model, [...golden.prompt, ...golden.tokens], 32, [0, 1, 2, 3])
    return { logits, total, info: model.info }
  } finally {
    await model.backend.close()
  }
}

/** The bytes of all planes, from the index. */
function indexOf(path: string): {
  totalBytes: number
  entries: { name: string; planes: { offset: number; crc: number }[] }[]
} {
  const bytes = readFileSync(path)
  const length = bytes.readUInt32LE(bytes.length - FOOTER_BYTES)
  return JSON.parse(bytes.toString('utf8', bytes.length - FOOTER_BYTES - length, bytes.length - FOOTER_BYTES))
}

function replaceIndex(path: string, json: string): void {
  const index = Buffer.from(json)
  const bytes = readFileSync(path)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(index.length)
  const end = bytes.length - FOOTER_BYTES - bytes.readUInt32LE(bytes.length - FOOTER_BYTES)
  writeFileSync(path, Buffer.concat([bytes.subarray(0, end), index, length, bytes.subarray(-4)]))
}

const devices = ['reference', 'cpu', ...((await hasAdapter()) ? (['webgpu'] as const) : [])] as const
describe.each(devices)('on %s', (device) => {
  const cases: [string, Partial<ModelRequest>][] = [
    ['a GGUF file', { path: GGUF }],
    ['a checkpoint quantised on load', { quantization: 'q4' }],
    ['experts', { path: goldenPath('qwen3moe'), quantization: 'q8' }],
  ]
  // A WebGPU model compiles its kernels twice here.
  test.each(device === 'webgpu' && !isFull ? cases.slice(1, 2) : cases)(
    'a second start reads what the first one packed of %s: same bits, same facts',
    async (_, overrides) => {
      const first = await start({ device, ...overrides })
      const [path] = files()
      expect(files()).toHaveLength(1)
      const second = await start({ device, ...overrides })
      expect(second.logits).toEqual(first.logits)
      // Packing needs memory that reading does not need.
      const { scratchBytes } = second.info.memory
      expect(second.info).toEqual({ ...first.info, memory: { ...first.info.memory, scratchBytes } })
      expect(second.info.notices).toEqual([])
      expect(second.total).toBe(indexOf(path!).totalBytes)
      expect(files()).toEqual([path])
    },
  )
})

test('each backend, quantisation and file has its own packed weights; those of a changed file are removed', async () => {
  const path = join(cacheDir, 'model.gguf')
  cpSync(GGUF, path)
  await start({ path })
  await start({ path, device: 'cpu' })
  await start({ quantization: 'q8' })
  expect(files()).toHaveLength(3)
  const before = files()
  utimesSync(path, 1, 1)
  await start({ path })
  expect(files()).toHaveLength(3)
  expect(files().filter((name) => before.includes(name))).toHaveLength(2)
})

test.each([
  [
    'cut short',
    (path: string) => truncateSync(path, readFileSync(path).length - 3),
    /does not end as packed weights do/,
  ],
  ['emptied', (path: string) => truncateSync(path, 0), /too short/],
  [
    'changed in one bit of the last plane',
    (path: string) => {
      const bytes = readFileSync(path)
      bytes[indexOf(path).entries.at(-1)!.planes[0]!.offset]! ^= 1
      writeFileSync(path, bytes)
    },
    /checksum/,
  ],
  [
    'not what its index says',
    (path: string) => {
      const bytes = readFileSync(path)
      writeFileSync(
        path,
        Buffer.from(bytes.toString('latin1').replace('"name":"model.norm', '"name":"model.nrom'), 'latin1'),
      )
    },
    /model\.norm\.weight .* is missing/,
  ],
  ['left without an index', (path: string) => replaceIndex(path, 'null'), /the index is not one of version/],
  ['given a list as its index', (path: string) => replaceIndex(path, '[]'), /the index is not one of version/],
  [
    'written by a newer version',
    (path: string) => replaceIndex(path, JSON.stringify({ ...indexOf(path), version: 99 })),
    /the index is not one of version/,
  ],
])('a file that was %s is ignored, reported and written again', async (_, damage, message) => {
  const request = { device: 'cpu' as const, path: GGUF }
  const first = await start(request)
  const [path] = files()
  const whole = readFileSync(path!)
  damage(path!)
  const again = await start(request)
  expect(again.logits).toEqual(first.logits)
  expect(again.info.notices).toEqual([expect.stringMatching(message)])
  expect(readFileSync(path!)).toEqual(whole)
})

test('a table that was packed for a memory without room for it at a later start is packed again, outside that memory', async () => {
  const request = { device: 'cpu', threads: 1, numKvBlocks: 4 } as const
  const first = await start(request, 'gemma3n')
  const cramped = { ...request, cpuMemoryBytes: 15_000 }
  const second = await start(cramped, 'gemma3n')
  expect(second.info.notices).toEqual([expect.stringMatching(/per_layer.* do not fit into a memory/)])
  expect(second.logits).toEqual(first.logits)
  expect((await start(cramped, 'gemma3n')).info.notices).toEqual([])
})

test('packed weights are what is served', async () => {
  const first = await start({ quantization: 'q8' })
  const other = mkdtempSync(join(tmpdir(), 'miniserve-packed-'))
  // Packed weights with other values under this checkpoint's name: only the file decides what is served.
  const changed = join(other, 'olmo2')
  cpSync(goldenPath('olmo2'), changed, { recursive: true })
  const weights = join(changed, 'model.safetensors')
  const bytes = readFileSync(weights)
  bytes.fill(0x3c, bytes.length - 4000)
  writeFileSync(weights, bytes)
  await start({ quantization: 'q8', path: changed, cacheDir: other })
  const [theirs] = readdirSync(join(other, 'weights'))
  cpSync(join(other, 'weights', theirs!), files()[0]!)
  expect((await start({ quantization: 'q8' })).logits).not.toEqual(first.logits)
  rmSync(other, { recursive: true })
})

test('a cache that cannot be written is reported, and the model is served all the same', async () => {
  const blocked = join(cacheDir, 'file')
  writeFileSync(blocked, '')
  const { info, logits } = await start({ cacheDir: blocked })
  expect(info.notices).toEqual([expect.stringMatching(/were not written/)])
  expect(logits).toEqual((await start({ cacheDir: null })).logits)
})

test('what a killed process left of the same checkpoint is removed, what another one writes now is not', async () => {
  await start({})
  const [path = ''] = files()
  rmSync(path)
  const [left, written] = [`${path}.a.incomplete`, `${path}.b.incomplete`]
  for (const name of [left, written]) writeFileSync(name, '')
  utimesSync(left, 0, 0)
  await start({})
  expect(files().toSorted()).toEqual([path, written].toSorted())
})

test.skipIf(!existsSync('/dev/full'))(
  'a disk that is full fails a later write, and the file can be closed',
  async () => {
    const file = new WriteBehind(await open('/dev/full', 'w'))
    const writes = async (): Promise<void> => {
      for (let i = 0; i < 20; i++) await file.write(new Uint8Array(2 ** 20), i * 2 ** 20)
    }
    await expect(writes()).rejects.toThrow('ENOSPC')
    await expect(file.flush()).rejects.toThrow('ENOSPC')
    await file.close()
  },
)
