/** Chooses and creates the compute backend. The backends with native code are imported only when they are used. */
import type { Backend, BackendOptions } from '../../kernels/backend.ts'
import { createReferenceBackend } from '../../kernels/reference/backend.ts'
import { ModelError, type ModelRequest } from './runner.ts'

type DeviceKind = 'reference' | 'webgpu' | 'cpu'

/** The device to use. `auto` takes a real GPU, or else the SIMD backend, or else the one in plain TypeScript. */
export async function chooseDevice(device: ModelRequest['device']): Promise<DeviceKind> {
  if (device !== 'auto') return device
  try {
    const { hasRealGpu } = await import('../../kernels/webgpu/device.ts')
    if (await hasRealGpu()) return 'webgpu'
  } catch {
    // The native package does not load on this platform, which is no error for `auto`.
  }
  try {
    await import('../../kernels/cpu/backend.ts')
    return 'cpu'
  } catch {
    return 'reference'
  }
}

/**
 * Compiles the kernels of the cpu backend ahead of a load that will ask for it. Other devices need their load's settings, and native code must not run in
 * a thread that may never be used. A failure is reported by the load itself.
 */
export function prepareDevice(device: string | null): void {
  if (device !== 'cpu') return
  void import('../../kernels/cpu/kernel-build.ts')
    .then(async ({ compileBuild, fastestBuild }) => compileBuild(await fastestBuild()))
    .catch(() => {})
}

type DeviceRequest = Pick<ModelRequest, 'device' | 'adapter' | 'threads' | 'cpuMemoryBytes'>

/** Creates the backend. @throws ModelError when the device cannot be opened, or is not the requested adapter */
export async function createBackend(
  kind: DeviceKind,
  options: BackendOptions,
  request: DeviceRequest,
): Promise<Backend> {
  const backend = await openBackend(kind, options, request)
  const { adapter } = backend.info
  if (request.adapter === undefined || request.adapter === adapter) return backend
  await backend.close()
  throw new ModelError(`device ${kind}: expected the adapter ${request.adapter}, found ${adapter}`)
}

async function openBackend(kind: DeviceKind, options: BackendOptions, request: DeviceRequest): Promise<Backend> {
  if (kind === 'reference') return createReferenceBackend(options)
  try {
    if (kind === 'webgpu') {
      const { createWebGpuBackend } = await import('../../kernels/webgpu/backend.ts')
      return await createWebGpuBackend(options)
    }
    const { createCpuBackend } = await import('../../kernels/cpu/backend.ts')
    const { threads, cpuMemoryBytes } = request
    return await createCpuBackend({
      ...options,
      threads,
      ...(cpuMemoryBytes === undefined ? {} : { memoryBytes: cpuMemoryBytes }),
    })
  } catch (error) {
    if (error instanceof ModelError) throw error
    // `auto` promises a device that works, so that the next one is tried.
    if (request.device === 'auto') return openBackend(kind === 'webgpu' ? 'cpu' : 'reference', options, request)
    const reason = error instanceof Error ? error.message : String(error)
    throw new ModelError(
      `device ${kind} cannot be used: ${reason}. Try --device ${kind === 'webgpu' ? 'cpu' : 'reference'}.`,
      { cause: error },
    )
  }
}
