import { readdirSync, readFileSync } from 'node:fs'
import { expect, test, vi } from 'vitest'
import type { BackendOptions } from '../backend.ts'
import { createCpuBackend } from './backend.ts'
import { Arena } from './arena.ts'
import { Pool } from './pool.ts'
import { COMMANDS, FLOAT_FIELDS, Program } from './program.ts'

const OPTIONS: BackendOptions = {
  limits: { maxRows: 8, maxSequences: 2, maxSampleRows: 2, maxBlocksPerSequence: 4 },
  traceKernels: false,
}

/** Commands whose class is not called as they are. */
const CLASSES: Readonly<Record<string, string>> = { qkvRopeStore: 'qkv', lowRankDown: 'lowrank', lowRankUp: 'lowrank' }

test('commands are laid out as the kernels read them', () => {
  const folder = new URL('./assembly/', import.meta.url)
  const sources = readdirSync(folder)
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(new URL(name, folder), 'utf8'))
    .join('\n')
  const classes = new Map(
    [...sources.matchAll(/export class (\w+)Command \{\n([^}]*)\}/g)].map(([, name, body]) => [
      name!.toLowerCase(),
      [...body!.matchAll(/^ {2}(\w+): (\w+)/gm)].map(
        ([, field, type]) => `${field}: ${type === 'f32' ? 'f32' : 'word'}`,
      ),
    ]),
  )
  const opcodes = Object.values(COMMANDS).map(({ opcode }) => opcode)
  expect(new Set(opcodes).size).toBe(opcodes.length)
  for (const [name, { fields }] of Object.entries(COMMANDS)) {
    const found = classes.get(CLASSES[name] ?? name.toLowerCase())
    const expected = fields.map((field) => `${field}: ${FLOAT_FIELDS.has(field) ? 'f32' : 'word'}`)
    expect(found?.slice(0, fields.length + 1), name).toEqual(['opcode: word', ...expected])
    // Counters follow, and 32 words are all there are.
    expect(found!.length, name).toBeLessThanOrEqual(32)
    for (const rest of found!.slice(fields.length + 1)) expect(rest, name).toMatch(/ounter: word|sink: word/)
  }
})

test('what does not fit into one memory in one piece is refused with what to try', () => {
  const arena = new Arena()
  arena.allocate(2 ** 20, 'small')
  expect(() => arena.allocate(4.4e9, 'lm_head')).toThrow(
    /^lm_head: a memory of the cpu backend has 4096 MiB, .* --quantization q8 or q4, .* --device webgpu/,
  )
  // What is in reach still is, and an address above 2 GiB works like any other.
  const high = arena.allocate(2.5e9, 'weights') + 2.4e9
  arena.f32(high, 1)[0] = 7
  expect(arena.f32(high, 1)[0]).toBe(7)
})

test('weights that cannot be packed are refused by name, with the reason', async () => {
  const backend = await createCpuBackend({ ...OPTIONS, threads: 1 })
  const values = new Uint16Array(16 * 32).fill(0x3c00)
  values[77] = 0x7c00
  await expect(backend.loadMatrix('layers.0.down', 16, 32, { format: 'f16', values })).rejects.toThrow(
    'layers.0.down: the weights hold infinities or NaN',
  )
  const codes = new Uint8Array((16 * 256) / 2)
  const q4 = (scale: (i: number) => number) => ({
    format: 'q4' as const,
    group: 32 as const,
    hasSubScales: true as const,
    codes,
    scales: Float32Array.from({ length: 16 * 8 }, (_, i) => scale(i)),
    mins: new Float32Array(16 * 8),
  })
  const load = (scale: (i: number) => number) => backend.loadMatrix('layers.0.up', 16, 256, q4(scale))
  await expect(load((i) => (i === 9 ? Infinity : 1))).rejects.toThrow('layers.0.up: the weights hold infinities or NaN')
  await expect(load((i) => 1 / (i + 1))).rejects.toThrow(
    'layers.0.up: the scales of 256 columns are not integers times',
  )
  await backend.close()
})

test('the threads of an idle pool go to sleep, also after they have worked', async () => {
  const arena = new Arena()
  const pool = await Pool.start(arena, 4, 'relaxed')
  const asleep = () => vi.waitFor(() => expect(pool.sleepingThreads).toBe(3), { timeout: 30_000, interval: 5 })
  await asleep()
  const program = new Program(arena, 0)
  const nothing = { rows: 0, residual: 0, residualStride: 0, x: 0, xStride: 0, cols: 0, weight: 0, eps: 0, scale: 1 }
  program.add('normAdd', nothing)
  pool.run(0, program.address, program.length)
  await asleep()
  await pool.close()
})

test('threads run programs in a memory that was added, and a trap there fails the pool', async () => {
  const pool = await Pool.start(new Arena(), 4, 'relaxed')
  const arena = new Arena()
  const program = new Program(arena, pool.addMemory(arena))
  // 64 rows of 4 columns times 2, in units that the threads share.
  const values = arena.allocate(64 * 16, 'values')
  for (let i = 0; i < 50; i++) {
    arena.f32(values, 256).fill(i)
    program.clear()
    program.add('pair', { rows: 64, x: values, xStride: 16, y: values, yStride: 16, cols: 4, kind: 0, scale: 2 })
    pool.run(program.memory, program.address, program.length)
    expect(arena.f32(values, 256)).toEqual(new Float32Array(256).fill(4 * i))
  }
  arena.i32(program.address + 64, 1)[0] = 99
  expect(() => pool.run(program.memory, program.address, 1)).toThrow('the cpu kernels failed')
  expect(() => pool.run(program.memory, program.address, 1)).toThrow('the cpu kernels failed')
  await pool.close()
})

test('a thread that cannot join a memory that was added tells those that wait there, and in the others', async () => {
  const [first, second] = [0, 1].map(() => ({ memory: new Arena().memory, control: 65_536 }))
  const instantiate = (_: unknown, memory: unknown, executeIn: (index: number) => void) => {
    if (memory === second!.memory) throw new Error('no address space')
    return { start: () => {}, serve: () => executeIn(1) }
  }
  const [faultOffset, generationOffset] = [320, 192]
  vi.doMock('./host.js', () => ({ instantiate }))
  vi.doMock('node:worker_threads', () => ({
    parentPort: { postMessage: () => {} },
    receiveMessageOnPort: () => ({ message: second }),
    workerData: { module: null, first, faultOffset, generationOffset, thread: 1, numThreads: 2 },
  }))
  try {
    await expect(vi.importActual('./pool-worker.js')).rejects.toThrow('no address space')
  } finally {
    vi.doUnmock('./host.js')
    vi.doUnmock('node:worker_threads')
  }
  for (const { memory, control } of [first!, second!]) {
    const words = new Int32Array(memory.buffer)
    expect([words[(control + faultOffset) / 4], words[(control + generationOffset) / 4]]).toEqual([1, 1])
  }
})

test('the count of programs may wrap around: the threads go on', async () => {
  const arena = new Arena()
  // The pool's control block comes next, and begins with the count.
  const count = arena.allocate(64, 'marker') + 64
  const pool = await Pool.start(arena, 4, 'relaxed')
  const asleep = () => vi.waitFor(() => expect(pool.sleepingThreads).toBe(3), { timeout: 30_000, interval: 5 })
  await asleep()
  const words = arena.i32(count, 1)
  Atomics.store(words, 0, 2 ** 31 - 2)
  const program = new Program(arena, 0)
  program.add('normAdd', {
    rows: 0,
    residual: 0,
    residualStride: 0,
    x: 0,
    xStride: 0,
    cols: 0,
    weight: 0,
    eps: 0,
    scale: 1,
  })
  for (let i = 0; i < 3; i++) {
    pool.run(0, program.address, program.length)
    await asleep()
  }
  expect(Atomics.load(words, 0)).toBe(-(2 ** 31) + 1)
  await pool.close()
})

test('a closed backend says so', async () => {
  const backend = await createCpuBackend({ ...OPTIONS, threads: 4 })
  const values = new Float32Array(64 * 64).fill(1)
  await backend.loadMatrix('w', 64, 64, { format: 'f32', values })
  await backend.close()
  await backend.close()
  await expect(backend.loadMatrix('w', 64, 64, { format: 'f32', values })).rejects.toThrow('the backend is closed')
})
