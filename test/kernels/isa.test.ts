/**
 * What a real GPU's compiler makes of the kernels: none may spill or use scratch memory, and enough waves must fit a core to hide memory's
 * latency. Nothing runs, so no GPU is needed (bench/lib/isa). Default level: one model in q4; full level: every shape in every format.
 */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  expertKernels,
  modelKernels,
  type CatalogueEntry,
  type ModelShape,
} from '../../src/kernels/webgpu/catalogue.ts'
import { ENABLED_TOGGLES } from '../../src/kernels/webgpu/device.ts'
import { shaderText } from '../../src/kernels/webgpu/pipelines.ts'
import { compileKernels, missingTools } from '../../bench/lib/isa/compile.mjs'
import { isFull } from './fixtures.ts'

const LEAST_WAVES: Readonly<Record<CatalogueEntry['kind'], number>> = { gemv: 8, attention: 8, gemm: 4, other: 8 }
/** Workgroup memory that every adapter has. */
const MOST_WORKGROUP_BYTES = 16384
const SHAPES = JSON.parse(readFileSync(new URL('../../bench/lib/shapes.json', import.meta.url), 'utf8')) as Record<
  string,
  ModelShape
>

/** Qwen3-30B-A3B. */
const QWEN3_30B = { hidden: 2048, inner: 768, count: 128, topK: 8 }

const skipReason = await missingTools()
if (skipReason !== null && (process.env.MINISERVE_REQUIRE ?? '').split(',').includes('isa')) {
  throw new Error(`MINISERVE_REQUIRE lists isa, but ${skipReason}`)
}

function entries(): CatalogueEntry[] {
  if (!isFull) return [...modelKernels(SHAPES['llama-3.2-1b']!, 'q4'), ...expertKernels(QWEN3_30B, 'q4')]
  const weights = ['f16', 'q8', 'q4'] as const
  return weights.flatMap((format) => [
    ...Object.values(SHAPES).flatMap((shape) => modelKernels(shape, format)),
    ...expertKernels(QWEN3_30B, format),
  ])
}

describe.skipIf(skipReason !== null)(
  `kernels on Radeon${skipReason === null ? '' : ` (skipped: ${skipReason})`}`,
  () => {
    it('fit registers and workgroup memory, with enough waves', { timeout: 120_000 }, async () => {
      const kernels = new Map(entries().map((entry) => [shaderText(entry.source), entry]))
      const results = await compileKernels([...kernels.keys()], ENABLED_TOGGLES)
      expect(Object.keys(results)).toEqual(['navi31', 'navi21'])
      const misfits: string[] = []
      for (const [gpu, figures] of Object.entries(results)) {
        for (const [index, entry] of [...kernels.values()].entries()) {
          const { spilled_vgprs, spilled_sgprs, scratch_bytes, waves_per_simd, lds_bytes } = figures[index]!
          const isFit =
            spilled_vgprs + spilled_sgprs + scratch_bytes === 0 &&
            waves_per_simd >= LEAST_WAVES[entry.kind] &&
            lds_bytes <= MOST_WORKGROUP_BYTES
          if (!isFit) misfits.push(`${gpu}: ${entry.kernel}, ${entry.weights}: ${JSON.stringify(figures[index])}`)
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
