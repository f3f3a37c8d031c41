/** Quantiles of the normal distribution. */
import { erf } from '../../../kernels/reference/arithmetic.ts'

/** How many standard deviations above the mean the share `p` of a normal distribution ends, 0 < p < 1: to about 1e-15, by halving. */
export function normalQuantile(p: number): number {
  let [low, high] = [-10, 10]
  for (let i = 0; i < 64; i++) {
    const middle = (low + high) / 2
    if ((1 + erf(middle / Math.SQRT2)) / 2 < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}
