import { expect, test } from 'vitest'
import type { BackendOptions } from '../backend.ts'
import { Arena } from './arena.ts'
import { Pool } from './pool.ts'
import { Shards } from './shards.ts'

const OPTIONS: BackendOptions = {
  limits: { maxRows: 512, maxSequences: 1, maxSampleRows: 1, maxBlocksPerSequence: 1 },
  traceKernels: false,
}

test('a later memory keeps room for routings that were made in an earlier one', async () => {
  const arena = new Arena()
  const pool = await Pool.start(arena, 1, 'relaxed')
  // Each memory has room for one of the matrices.
  const shards = new Shards(OPTIONS, arena, pool, 1000)
  const shape = { numExperts: 64, topK: 8, inner: 2048, outer: 4096 }
  const routing = shards.filling.resources.createRouting('routing', shape)
  const size = { bytes: 600, inner: 4096, outer: 4096, numExperts: 64 }
  shards.forMatrix('first', size)
  expect(shards.all).toHaveLength(1)
  shards.forMatrix('second', size)
  const { resources, memory, arena: later } = shards.at(1)
  const [reserved, before] = [memory.reserveBytes(), later.usedBytes]
  // The first step allocates the routing and the prepared rows of its products.
  resources.routing(routing)
  const routingBytes = later.usedBytes - before
  memory.reserve()
  const preparedBytes = later.usedBytes - before - routingBytes
  expect(Math.min(routingBytes, preparedBytes)).toBeGreaterThan(60 * 2 ** 20)
  const rest = memory.reserveBytes()
  expect(reserved - rest).toBeGreaterThan(0.99 * routingBytes)
  expect(rest).toBeGreaterThan(preparedBytes)
  await pool.close()
})
