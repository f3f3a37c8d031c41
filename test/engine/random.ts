/** Seeded random numbers for property tests: a failure names its seed and comes back. */
export interface Random {
  /** 0 <= x < 1 */
  next(): number
  /** An integer, from <= x < to. */
  int(from: number, to: number): number
  pick<T>(values: readonly T[]): T
}

/** mulberry32 */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
  const int = (from: number, to: number) => from + Math.floor(next() * (to - from))
  return {
    next,
    int,
    pick<T>(values: readonly T[]): T {
      const value = values[int(0, values.length)]
      if (value === undefined) throw new Error('nothing to pick from')
      return value
    },
  }
}
