/**
 * The WebGPU backend at one of lavapipe's vector widths, for the full level: a file and so a process for each width, because the driver
 * reads its settings once a process. Both kernel families run: with subgroups of the width's size, and those of adapters without subgroups
 * of a known size, which is what GPUs run.
 *
 * LLVM's optimisation passes are off (GALLIVM_PERF=nopt). They do not change what is computed, and they take most of the time: the gated q4
 * kernel with minimums compiles for 106 s with them and for 4 s without, and there are some 150 kernels a width. The optimised code of the
 * default width is what webgpu.test.ts runs.
 */
import { describe, expect, it, vi } from 'vitest'
import type { BackendOptions } from '../../src/kernels/ops.ts'
import { createWebGpuBackend, hasAdapter, type WebGpuBackendOptions } from '../../src/kernels/webgpu/backend.ts'
import { describeBackend } from './conformance.ts'
import { backendOptions, isFull } from './fixtures.ts'
import { describeVariants } from './webgpu-variants.ts'

const create = (more: Partial<WebGpuBackendOptions>) => (options: BackendOptions) =>
  createWebGpuBackend({ ...options, cacheDir: null, retune: false, ...more })

async function reasonToSkip(): Promise<string | null> {
  if (!isFull) return 'full level only'
  if (!(await hasAdapter())) return 'there is no WebGPU adapter (software Vulkan: mesa-vulkan-drivers)'
  const backend = await create({})(backendOptions())
  await backend.close()
  return /llvmpipe/.test(backend.info.adapter) ? null : `${backend.info.adapter} has no vector width to choose`
}

/**
 * @param subgroupSize lanes of a subgroup: the vector width over 32 bits
 * @param plain whether to run the subgroup kernels' suite; false where webgpu.test.ts runs it
 */
export async function describeWidth(subgroupSize: number, plain: boolean): Promise<void> {
  process.env.LP_NATIVE_VECTOR_WIDTH = `${32 * subgroupSize}`
  process.env.GALLIVM_PERF = 'nopt'
  vi.setConfig({ testTimeout: 600_000, hookTimeout: 600_000 })
  const skipReason = await reasonToSkip()
  describe.skipIf(skipReason !== null)(
    `subgroups of ${subgroupSize}${skipReason === null ? '' : ` (${skipReason})`}`,
    () => {
      it('are what the adapter has', async () => {
        const backend = await create({})(backendOptions())
        expect(backend.capabilities.subgroupSize).toBe(subgroupSize)
        await backend.close()
      })
      if (plain) describeBackend('webgpu', create({}))
      describeBackend('webgpu without subgroups', create({ avoidSubgroups: true }))
      describeVariants(create({}))
      // The text of these kernels does not depend on the width.
      if (!plain) describeVariants(create({ avoidSubgroups: true }), ', without subgroups')
    },
  )
}
