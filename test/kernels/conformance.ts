/**
 * The conformance suite every backend passes: each op over formats and odd shapes against the reference backend (float64 accumulation), with
 * poisoned outputs, rows that must stay untouched, and bit-equality wherever row invariance (docs/architecture.md) promises it.
 *
 *     describeBackend('cpu', (options) => createCpuBackend({ ...options, threads: 2 }))
 */
import { describe } from 'vitest'
import { describeAttention } from './conformance-attention.ts'
import { describeEncoder } from './conformance-encoder.ts'
import { describeExperts } from './conformance-experts.ts'
import { describeLinear } from './conformance-linear.ts'
import { describeLowRank } from './conformance-low-rank.ts'
import { describeRows } from './conformance-rows.ts'
import { describeSampling } from './conformance-sampling.ts'
import { describeStates } from './conformance-states.ts'
import { TOLERANCES, type Coverage, type CreateBackend, type Tolerances } from './fixtures.ts'

export interface ConformanceOptions {
  /** Overrides of the tolerance table, for a backend that declares a lossy path (int8 activations: quantized 5e-4). */
  readonly tolerances?: Partial<Tolerances>
  /** Why the backend cannot run here, or null. A skip becomes a failure when MINISERVE_REQUIRE lists the backend's name. */
  readonly skipReason?: string | null
  readonly coverage?: Coverage
}

export function describeBackend(name: string, create: CreateBackend, options: ConformanceOptions = {}): void {
  const required = (process.env.MINISERVE_REQUIRE ?? '').split(',').includes(name)
  const reason = options.skipReason ?? null
  if (reason !== null && required) throw new Error(`MINISERVE_REQUIRE lists ${name}, but ${reason}`)
  const tolerances = { ...TOLERANCES, ...options.tolerances }
  describe.skipIf(reason !== null)(`backend ${name}${reason === null ? '' : ` (skipped: ${reason})`}`, () => {
    describeLinear(create, tolerances, options.coverage ?? 'all')
    describeExperts(create, tolerances, options.coverage ?? 'all')
    describeAttention(create, tolerances, options.coverage ?? 'all')
    describeSampling(create, tolerances)
    describeStates(create, tolerances)
    describeEncoder(create, tolerances)
    describeLowRank(create, tolerances)
    describeRows(create, tolerances)
  })
}
