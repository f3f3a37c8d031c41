/** Finds the adapter and opens the device: Dawn's toggles, limits and capabilities. */
import { existsSync } from 'node:fs'
import { create, globals } from 'webgpu'
import { DeviceLostError } from '../backend.ts'

/** The properties of a device that kernels depend on. */
export interface Capabilities {
  /** The adapter is software on the CPU. It runs the same kernels, slowly. */
  readonly isSoftware: boolean
  /** WGSL's language feature packed_4x8_integer_dot_product: dot4I8Packed. */
  readonly hasPackedDot: boolean
  readonly hasTimestamps: boolean
  /** Largest storage binding, in bytes. Larger weights are sharded by rows. */
  readonly maxBindingBytes: number
}

export interface GpuDevice {
  readonly device: GPUDevice
  readonly capabilities: Capabilities
  readonly adapterName: string
  readonly driver: string
  /** `error` is set once, when the device is lost. */
  readonly lost: { error: DeviceLostError | null }
  /** Returns and clears the first validation or out-of-memory error since the last call, or null. */
  takeError(): Error | null
}

/**
 * Dawn's toggles:
 * - vulkan_enable_f16_on_nvidia, use_vulkan_memory_model: features that Dawn otherwise hides on NVIDIA.
 * - disable_workgroup_init: no kernel reads workgroup memory before it has written it.
 * Robust buffer access stays on: an index computed from a block table must never reach memory outside its buffer.
 */
export const ENABLED_TOGGLES = [
  'vulkan_enable_f16_on_nvidia',
  'use_vulkan_memory_model',
  'disable_workgroup_init',
  'allow_unsafe_apis',
]
const DISABLED_TOGGLES = ['timestamp_quantization']

let instance: GPU | null = null

/** The Dawn instance of this thread, created on first use. It is never released: devices crash after their instance is garbage-collected. */
function gpuInstance(): GPU {
  if (instance === null) {
    // Node has no WebGPU globals: the package's enumerations (GPUBufferUsage, GPUMapMode) and classes become globals here.
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

/** Whether an adapter is software: Mesa's lavapipe and Google's SwiftShader report one of these properties, and no hardware does. */
function isSoftwareAdapter(info: GPUAdapterInfo): boolean {
  return (
    info.architecture === 'software' ||
    info.isFallbackAdapter ||
    /llvmpipe|swiftshader/i.test(`${info.device} ${info.description}`)
  )
}

/** Where Linux has the device nodes of GPUs: those of the Direct Rendering Manager, of NVIDIA's driver, and of Windows under WSL. */
const LINUX_GPU_NODES = ['/dev/dri', '/dev/nvidiactl', '/dev/dxg']

/** Whether the machine has an adapter that is real hardware (decides `--device auto`). Never throws. */
export async function hasRealGpu(): Promise<boolean> {
  // Without a node there is no GPU, and Dawn would print what it misses.
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
 * Opens a device on the best adapter, with the adapter's own limits in place of WebGPU's defaults.
 * @throws Error that says what to install where there is no adapter
 */
export async function openDevice(): Promise<GpuDevice> {
  const adapter = await requestAdapter()
  if (adapter === null) {
    // Dawn silently refuses Mesa before version 23, which lacks dynamic indexing of uniform arrays.
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
