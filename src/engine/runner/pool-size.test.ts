import { expect, test } from 'vitest'
import { type PoolRequest, sizePool } from './pool-size.ts'

const GIB = 2 ** 30
/** Llama 3 8B: 131,072 tokens of 128 KiB. */
const large: PoolRequest = {
  numKvBlocks: null,
  kvCacheMemory: null,
  maxModelLen: 131_072,
  isModelLenAsked: false,
  maxNumSeqs: 64,
  blockSize: 16,
  blockBytes: 16 * 131_072,
  maxBlocks: Infinity,
  stateSlotBytes: 0,
  maxStateSlots: 0,
}

test('a large card has a pool for many usual sequences, a small one what fits, with a notice for the operator', () => {
  expect(sizePool(large, 60 * GIB)).toEqual({
    numBlocks: 64 * 256,
    numStateSlots: 0,
    maxModelLen: 131_072,
    notices: [],
  })
  const small = sizePool(large, 4 * GIB)
  expect(small).toMatchObject({ numBlocks: 2048, maxModelLen: 32_768 })
  expect(small.notices[0]).toMatch(/32768 tokens, not the model's 131072.*16384 MiB.*4096 MiB.*--kv-cache-memory/)
})

test('a short context needs no more than its sequences', () => {
  expect(sizePool({ ...large, maxModelLen: 256, maxNumSeqs: 3 }, 60 * GIB).numBlocks).toBe(48)
})

test('requested bytes and shares are used, up to the largest pool of the device', () => {
  expect(sizePool({ ...large, kvCacheMemory: { bytes: 40 * GIB } }, GIB).numBlocks).toBe(40 * 512)
  expect(sizePool({ ...large, kvCacheMemory: { share: 0.5 } }, 64 * GIB).numBlocks).toBe(32 * 512)
  expect(sizePool({ ...large, kvCacheMemory: { share: 0.5 }, maxBlocks: 9000 }, 64 * GIB).numBlocks).toBe(9000)
  expect(sizePool({ ...large, numKvBlocks: 20, kvCacheMemory: { share: 0.5 } }, GIB).numBlocks).toBe(20)
})

test('states take at most half of the same memory: a slot and a snapshot per sequence', () => {
  const hybrid = { ...large, stateSlotBytes: 48 * 2 ** 20, maxStateSlots: Infinity }
  const roomy = sizePool(hybrid, 60 * GIB)
  expect(roomy).toEqual({ numBlocks: 64 * 256, numStateSlots: 129, maxModelLen: 131_072, notices: [] })
  const tight = sizePool(hybrid, 4 * GIB)
  expect(tight.numStateSlots).toBe(42)
  expect(tight.numBlocks).toBe(Math.floor((4 * GIB - 42 * hybrid.stateSlotBytes) / large.blockBytes))
  expect(tight.notices[0]).toMatch(/42 sequences run at once, not the 64 of --max-num-seqs.*48 MiB/)
  expect(sizePool({ ...hybrid, numStateSlots: 7 }, 60 * GIB).numStateSlots).toBe(7)
  expect(() => sizePool(hybrid, 2 ** 26)).toThrow(/a state of 48 MiB per sequence.*64 MiB.*--kv-cache-memory/)
})

test('the error for a pool that does not fit says what is needed, what there is, and what to change', () => {
  expect(() => sizePool({ ...large, isModelLenAsked: true }, GIB)).toThrow(
    /fewer than the 131072 of --max-model-len.*--kv-cache-memory/,
  )
  expect(() => sizePool(large, 2 ** 20)).toThrow(/hold 0 tokens.*16384 MiB.*1 MiB.*--quantization/)
})
