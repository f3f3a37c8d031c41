/** The adapter and the device: Dawn's switches, limits, capabilities, and how often its promises are polled. */
import { existsSync } from 'node:fs'
import { create, globals } from 'webgpu'
import { DeviceLostError } from '../backend.ts'

/** What kernels may rely on. */
export interface Capabilities {
  /** A CPU pretending to be a GPU. It runs the same kernels, slowly. */
  readonly isSoftware: boolean
  /** dot4I8Packed of WGSL's packed_4x8_integer_dot_product. */
  readonly hasPackedDot: boolean
  readonly hasTimestamps: boolean
  /** Largest storage binding in bytes: larger weights are sharded by rows. */
  readonly maxBindingBytes: number
}

export interface GpuDevice {
  readonly device: GPUDevice
  readonly capabilities: Capabilities
  readonly adapterName: string
  readonly driver: string
  /** Set once, when the device is gone. */
  readonly lost: { error: DeviceLostError | null }
  /** First validation or out-of-memory error since the last call, or null. */
  takeError(): Error | null
}

/**
 * - vulkan_enable_f16_on_nvidia, use_vulkan_memory_model: what Dawn otherwise hides on NVIDIA.
 * - disable_workgroup_init: no kernel reads workgroup memory before it wrote it.
 * Robust buffer access stays on: an index computed from a block table must never reach another tenant's memory.
 */
export const ENABLED_TOGGLES = [
  'vulkan_enable_f16_on_nvidia',
  'use_vulkan_memory_model',
  'disable_workgroup_init',
  'allow_unsafe_apis',
]
const DISABLED_TOGGLES = ['timestamp_quantization']

let instance: GPU | null = null

/** One Dawn instance a thread, made on first use. It is never dropped: devices of a collected instance crash. */
function gpuInstance(): GPU {
  if (instance === null) {
    // The package's enumerations (GPUBufferUsage, GPUMapMode) and classes are no globals in Node until they are put there.
    for (const [name, value] of Object.entries(globals)) {
      if (!(name in globalThis)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
    }
    instance = create([
      `enable-dawn-features=${ENABLED_TOGGLES.join(',')}`,
      `disable-dawn-features=${DISABLED_TOGGLES.join(',')}`,
    ])
  }
  return instance
}

async function requestAdapter(): Promise<GPUAdapter | null> {
  return gpuInstance().requestAdapter({ powerPreference: 'high-performance' })
}

/** Mesa's lavapipe and Google's SwiftShader report themselves so; a discrete GPU never does. */
function isSoftwareAdapter(info: GPUAdapterInfo): boolean {
  return (
    info.architecture === 'software' ||
    info.isFallbackAdapter ||
    /llvmpipe|swiftshader/i.test(`${info.device} ${info.description}`)
  )
}

/** Where Linux shows GPUs to programs: Direct Rendering Manager's nodes, NVIDIA's own, and Windows' under WSL. */
const LINUX_GPU_NODES = ['/dev/dri', '/dev/nvidiactl', '/dev/dxg']

/** Whether the machine has an adapter that is real hardware (decides `--device auto`). Never throws. */
export async function hasRealGpu(): Promise<boolean> {
  // Without a node there is no GPU to find, and asking Dawn for one would print what it misses.
  if (process.platform === 'linux' && !LINUX_GPU_NODES.some((path) => existsSync(path))) return false
  try {
    const adapter = await requestAdapter()
    return adapter !== null && !isSoftwareAdapter(adapter.info)
  } catch {
    return false
  }
}

/** Whether there is any adapter at all, software ones included. Never throws. */
export async function hasAdapter(): Promise<boolean> {
  try {
    return (await requestAdapter()) !== null
  } catch {
    return false
  }
}

/**
 * Opens the best adapter with all its limits.
 * @throws Error that says what to install when there is no adapter
 */
export async function openDevice(): Promise<GpuDevice> {
  const adapter = await requestAdapter()
  if (adapter === null) {
    // Dawn refuses Mesa before 23 without a word: it lacks dynamic indexing of uniform arrays.
    throw new Error(
      'no WebGPU adapter: a GPU needs its Vulkan driver (or Metal, or Direct3D 12). Mesa has to be version 23 or later: Debian 12 has it in bookworm-backports (apt-get install -t bookworm-backports mesa-vulkan-drivers). Software Vulkan is in the same package, chosen with VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.json',
    )
  }
  const { info } = adapter
  const requiredLimits: Record<string, number> = {}
  for (const name of [
    'maxBufferSize',
    'maxStorageBufferBindingSize',
    'maxStorageBuffersPerShaderStage',
    'maxComputeWorkgroupStorageSize',
    'maxComputeWorkgroupsPerDimension',
  ] as const) {
    requiredLimits[name] = adapter.limits[name]
  }
  const wanted = ['timestamp-query'] as const
  const requiredFeatures = wanted.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[]
  const device = await adapter.requestDevice({ label: 'miniserve', requiredFeatures, requiredLimits })

  const lost: { error: DeviceLostError | null } = { error: null }
  let firstError: Error | null = null
  void device.lost.then(({ reason, message }) => {
    lost.error ??= new DeviceLostError(`the GPU device was lost (${reason}): ${message}`)
  })
  device.addEventListener('uncapturederror', (event) => {
    event.preventDefault()
    firstError ??= new Error(`WebGPU: ${event.error.message}`)
  })

  return {
    device,
    capabilities: {
      isSoftware: isSoftwareAdapter(info),
      hasPackedDot: gpuInstance().wgslLanguageFeatures.has('packed_4x8_integer_dot_product'),
      hasTimestamps: adapter.features.has('timestamp-query'),
      maxBindingBytes: device.limits.maxStorageBufferBindingSize,
    },
    adapterName: info.device || info.vendor || 'unknown adapter',
    driver: info.description,
    lost,
    takeError() {
      const error = firstError
      firstError = null
      return error
    },
  }
}
