/**
 * What a real GPU's compiler makes of the kernels: none may spill or use scratch memory, and enough waves must fit a core to hide memory's
 * latency. Nothing runs, so no GPU is needed (bench/lib/isa). Default level: experts, states and attention, in q4; full level:
 * every model in every form of weights.
 */
import { describe, expect, it } from 'vitest'
import { ENABLED_TOGGLES } from '../../src/kernels/webgpu/device.ts'
import { type AbsentKernel, absentKernels, MODELS, WEIGHTS } from '../../bench/lib/isa/absent-model.mjs'
import { compileKernels, missingTools } from '../../bench/lib/isa/compile.mjs'
import { isFull } from './fixtures.ts'

const LEAST_WAVES: Readonly<Record<AbsentKernel['kind'], number>> = { gemv: 8, attention: 8, gemm: 4, other: 8 }

const skipReason = await missingTools()
if (skipReason !== null && (process.env.MINISERVE_REQUIRE ?? '').split(',').includes('isa')) {
  throw new Error(`MINISERVE_REQUIRE lists isa, but ${skipReason}`)
}

describe.skipIf(skipReason !== null)(
  `kernels on Radeon${skipReason === null ? '' : ` (skipped: ${skipReason})`}`,
  () => {
    it('fit registers, with enough waves', { timeout: 600_000 }, async () => {
      const kernels = isFull
        ? await absentKernels(Object.keys(MODELS), Object.keys(WEIGHTS))
        : await absentKernels(['qwen3-30b-a3b', 'qwen3.5-4b'], ['q4'])
      const texts = kernels.map(({ text }) => text)
      const results = await compileKernels(texts, ENABLED_TOGGLES)
      expect(Object.keys(results)).toEqual(['navi31', 'navi21'])
      const misfits: string[] = []
      for (const [gpu, figures] of Object.entries(results)) {
        for (const [index, { kernel, kind, defines }] of kernels.entries()) {
          const { spilled_vgprs, spilled_sgprs, scratch_bytes, waves_per_simd } = figures[index]!
          const isFit = spilled_vgprs + spilled_sgprs + scratch_bytes === 0 && waves_per_simd >= LEAST_WAVES[kind]
          if (!isFit) misfits.push(`${gpu}: ${kernel}, ${defines}: ${JSON.stringify(figures[index])}`)
        }
      }
      expect(misfits).toEqual([])
    })

    it('are judged: one that needs too much does not pass', { timeout: 60_000 }, async () => {
      const text = `
      @group(0) @binding(0) var<storage, read> a: array<f32>;
      @group(0) @binding(1) var<storage, read_write> b: array<f32>;
      @compute @workgroup_size(64)
      fn main(@builtin(local_invocation_index) i: u32) {
        var held: array<f32, 512>;
        for (var k = 0u; k < 512u; k++) { held[k] = a[k * 64u + i]; }
        var sum = 0.0;
        for (var k = 0u; k < 512u; k++) { sum = sum * 1.5 + held[(k * 37u + i) % 512u]; }
        b[i] = sum;
      }`
      const { navi31 } = await compileKernels([text], ENABLED_TOGGLES, ['navi31'])
      expect(navi31![0]!.scratch_bytes).toBeGreaterThan(0)
    })
  },
)
