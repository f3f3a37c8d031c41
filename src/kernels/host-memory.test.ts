import { expect, it } from 'vitest'
import { availableHostMemory, reclaimableOnDarwin, totalHostMemory } from './host-memory.ts'

it('counts what macOS gets back beside what is free', () => {
  const text = `Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                                6000.
Pages active:                            400000.
Pages inactive:                          390000.
Pages speculative:                         4000.
Pages throttled:                              0.
Pages wired down:                        120000.
Pages purgeable:                          10000.
"Translation faults":                 123456789.
`
  expect(reclaimableOnDarwin(text)).toBe((6000 + 390_000 + 4000 + 10_000) * 16_384)
  expect(reclaimableOnDarwin('something else')).toBe(0)
})

it('has something to give here', () => {
  expect(availableHostMemory()).toBeGreaterThan(2 ** 20)
  expect(totalHostMemory()).toBeGreaterThanOrEqual(availableHostMemory())
})
