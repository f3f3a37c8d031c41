import type { GpuDevice } from '#dist/kernels/webgpu/device.js'

export type Limits = Readonly<Record<keyof typeof LEAST_LIMITS, number>>
export const LEAST_LIMITS: {
  readonly maxBufferSize: number
  readonly maxStorageBufferBindingSize: number
  readonly maxUniformBufferBindingSize: number
  readonly maxStorageBuffersPerShaderStage: number
  readonly maxUniformBuffersPerShaderStage: number
  readonly maxComputeWorkgroupsPerDimension: number
}
export const CARD_LIMITS: Limits

/** The dispatches of a command buffer, in order. */
export type Submission = readonly { readonly label: string; readonly x: number; readonly y: number }[]

export class AbsentGpu implements GpuDevice {
  constructor(limits?: Limits)
  readonly limits: Limits
  /** WGSL by the pipeline's label: the kernel's name and defines. */
  readonly kernels: ReadonlyMap<string, string>
  readonly submissions: readonly Submission[]
  readonly device: GPUDevice
  readonly capabilities: GpuDevice['capabilities']
  readonly adapterName: string
  readonly driver: string
  readonly lost: GpuDevice['lost']
  takeError(): null
}
