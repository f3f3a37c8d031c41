/**
 * The WebGPU suite at the other vector widths of lavapipe: subgroups of 4 and 16 (8 is the default). The width is read once a process, so
 * each gets a child of its own. Full level only: every width compiles every kernel anew.
 */
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { createWebGpuBackend, hasAdapter } from '../../src/kernels/webgpu/backend.ts'
import { backendOptions, isFull } from './fixtures.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

async function isLavapipe(): Promise<boolean> {
  if (!isFull || !(await hasAdapter())) return false
  const backend = await createWebGpuBackend({ ...backendOptions(), cacheDir: null, retune: false })
  await backend.close()
  return /llvmpipe/.test(backend.info.adapter)
}

describe.runIf(await isLavapipe())('lavapipe widths', () => {
  for (const [width, subgroup] of [
    [128, 4],
    [512, 16],
  ] as const) {
    it(`passes with subgroups of ${subgroup}`, () => {
      const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
      const child = spawnSync(process.execPath, [vitest, 'run', 'test/kernels/webgpu.test.ts'], {
        cwd: root,
        env: { ...process.env, LP_NATIVE_VECTOR_WIDTH: `${width}`, MINISERVE_REQUIRE: 'webgpu' },
        encoding: 'utf8',
      })
      expect(child.status, `${child.stdout}\n${child.stderr}`).toBe(0)
    }, 3_600_000)
  }
})
