import { expect, test } from 'vitest'
import { Bindings, type GpuContext } from './context.ts'
import { type Bucket, LinearKernels } from './linear.ts'
import type { GpuMatrix } from './matrix.ts'
import { shaderText } from './pipelines.ts'

/** Kernels as a GPU with the least workgroup memory that WebGPU allows gets them; only capabilities are looked at. */
function gpuKernels(maxWorkgroupBytes: number): LinearKernels {
  const capabilities = { isSoftware: false, subgroupSize: 32, hasTimestamps: true, maxBindingBytes: 2 ** 27 }
  const context = { capabilities: { ...capabilities, maxWorkgroupBytes } } as GpuContext
  return new LinearKernels(context, new Bindings(context))
}

function matrix(FORMAT: number, MINS: number, cols: number, isGated: boolean): GpuMatrix {
  return {
    id: 1,
    label: 'w',
    rows: 256,
    cols,
    format: FORMAT === 4 ? 'q4' : 'f16',
    form: { FORMAT, UNITS: (32 * FORMAT) / 128, GROUP: 32, MINS },
    numBlocks: cols / 32,
    gluRun: isGated ? 32 : 0,
    weightScale: 1,
    shards: [],
  }
}

/** Bytes of a text's workgroup variables. */
function workgroupBytes(text: string): number {
  const sizes = { f32: 4, u32: 4, 'vec4<f32>': 16 } as const
  let bytes = 0
  for (const [, type, length] of text.matchAll(/var<workgroup> \w+: array<(f32|u32|vec4<f32>), (\d+)>/g)) {
    bytes += sizes[type as keyof typeof sizes] * Number(length)
  }
  return bytes
}

test('tiles of a GPU: two to six a shape, none beyond the memory of a workgroup', () => {
  for (const limit of [16384, 32768]) {
    const kernels = gpuKernels(limit)
    for (const w of [
      matrix(16, 0, 576, false),
      matrix(4, 1, 2048, false),
      matrix(16, 0, 2048, true),
      matrix(4, 0, 64, true),
    ]) {
      for (const bucket of [1, 4, 8] satisfies Bucket[]) {
        const tiles = kernels.candidates(w, bucket)
        expect(tiles.length).toBeGreaterThanOrEqual(2)
        expect(tiles.length).toBeLessThanOrEqual(6)
        for (const tile of tiles) {
          expect(w.gluRun === 0 || tile.R % 2 === 0).toBe(true)
          for (const numRows of bucket === 8 ? [8, 64] : [bucket]) {
            const bytes = workgroupBytes(shaderText(kernels.source(w, tile, numRows, true)))
            expect(bytes).toBeGreaterThan(0)
            expect(bytes, JSON.stringify(tile)).toBeLessThanOrEqual(limit)
          }
        }
      }
    }
  }
})
