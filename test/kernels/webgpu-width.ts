/**
 * The WebGPU backend at lavapipe's vector widths, for the full level: a process for each width, because the driver reads its settings once a
 * process. Nearly all of the time is LLVM compiling kernels, so each file compiles what differs there, once:
 *
 * - width 8, lavapipe's own on most machines: every tile in every format here; the conformance suite, optimised, in webgpu.test.ts
 * - widths 4 and 16: the conformance suite with every format on every shape; every tile in the three formats that take every path between
 *   them (floats; groups of 16 with minimums; nibbles with the sum of x)
 * - kernels without subgroups, which GPUs run: their text does not depend on the width, so they have a file of their own at the default width
 *
 * LLVM's optimisation passes are off (GALLIVM_PERF=nopt). They do not change what is computed, and they take most of the time: the gated q4
 * kernel with minimums and without subgroups compiles for 106 s with them and for 4 s without. The optimised code of the default width is what
 * webgpu.test.ts runs.
 */
import { describe, expect, it, vi } from 'vitest'
import type { BackendOptions } from '../../src/kernels/ops.ts'
import { createWebGpuBackend, hasAdapter, type WebGpuBackendOptions } from '../../src/kernels/webgpu/backend.ts'
import { describeBackend } from './conformance.ts'
import { backendOptions, isFull, type Format } from './fixtures.ts'
import { describeVariants } from './webgpu-variants.ts'

const TILE_FORMATS: readonly Format[] = ['f16', 'q8 g16 mins', 'q4']

const create = (more: Partial<WebGpuBackendOptions>) => (options: BackendOptions) =>
  createWebGpuBackend({ ...options, cacheDir: null, retune: false, ...more })

async function reasonToSkip(): Promise<string | null> {
  if (!isFull) return 'full level only'
  if (!(await hasAdapter())) return 'there is no WebGPU adapter (software Vulkan: mesa-vulkan-drivers)'
  const backend = await create({})(backendOptions())
  await backend.close()
  return /llvmpipe/.test(backend.info.adapter) ? null : `${backend.info.adapter} has no vector width to choose`
}

/** Settings of the driver and the time limits; why there is nothing to run, or null. Before anything opens an adapter. */
async function prepare(subgroupSize: number): Promise<string | null> {
  process.env.LP_NATIVE_VECTOR_WIDTH = `${32 * subgroupSize}`
  process.env.GALLIVM_PERF = 'nopt'
  vi.setConfig({ testTimeout: 600_000, hookTimeout: 600_000 })
  return reasonToSkip()
}

const titled = (title: string, skipReason: string | null) => (skipReason === null ? title : `${title} (${skipReason})`)

/** @param subgroupSize lanes of a subgroup: the vector width over 32 bits */
export async function describeWidth(subgroupSize: number): Promise<void> {
  const skipReason = await prepare(subgroupSize)
  const isDefault = subgroupSize === 8
  describe.skipIf(skipReason !== null)(titled(`subgroups of ${subgroupSize}`, skipReason), () => {
    it('are what the adapter has', async () => {
      const backend = await create({})(backendOptions())
      expect(backend.capabilities.subgroupSize).toBe(subgroupSize)
      await backend.close()
    })
    if (!isDefault) describeBackend('webgpu', create({}), { coverage: 'formats' })
    describeVariants(create({}), isDefault ? undefined : TILE_FORMATS)
  })
}

/** The kernels of adapters without subgroups of a known size. */
export async function describeWithoutSubgroups(): Promise<void> {
  const skipReason = await prepare(8)
  describe.skipIf(skipReason !== null)(titled('without subgroups', skipReason), () => {
    describeBackend('webgpu', create({ avoidSubgroups: true }), { coverage: 'pairs' })
    describeVariants(create({ avoidSubgroups: true }))
  })
}
