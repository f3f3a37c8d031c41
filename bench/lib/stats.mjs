// Numbers of samples, and the seeded randomness that makes every run send the same.

/**
 * The value below which a share of the samples lies.
 * @param {readonly number[]} values
 * @param {number} share from 0 to 1
 * @returns {number} NaN without samples
 */
export function quantile(values, share) {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

export const median = (/** @type {readonly number[]} */ values) => quantile(values, 0.5)

export const mean = (/** @type {readonly number[]} */ values) =>
  values.reduce((sum, value) => sum + value, 0) / values.length

/**
 * Rounded to so many digits; null where there is no number.
 * @param {number | null | undefined} value
 * @returns {any} a number or null, for a file of results
 */
export const round = (value, digits = 2) =>
  value === null || value === undefined || !Number.isFinite(value) ? null : Number(value.toFixed(digits))

/**
 * mulberry32: uniform in [0, 1).
 * @param {number} seed
 */
export function seededRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/**
 * Mean with its 95 % percentile bootstrap interval over the values.
 * @param {readonly number[]} values
 */
export function withInterval(values, resamples = 10_000) {
  const random = seededRandom(1)
  const means = Array.from({ length: resamples }, () => {
    let sum = 0
    for (let i = 0; i < values.length; i++) sum += values[Math.floor(random() * values.length)]
    return sum / values.length
  }).sort((a, b) => a - b)
  const at = (/** @type {number} */ share) => means[Math.min(resamples - 1, Math.floor(resamples * share))]
  return [mean(values), at(0.025), at(0.975)].map((value) => round(value, 3))
}

/**
 * Milliseconds of each of `count` runs, after `warmup` that do not count.
 * @param {number} count
 * @param {number} warmup
 * @param {(index: number) => unknown} run
 */
export async function time(count, warmup, run) {
  const times = []
  for (let i = -warmup; i < count; i++) {
    const started = performance.now()
    await run(i)
    if (i >= 0) times.push(performance.now() - started)
  }
  return times
}
