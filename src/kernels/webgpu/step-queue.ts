/** Submits recorded steps, in pieces short enough for the watchdogs of drivers, and reads their results back. */
import type { StepOutput } from '../ops.ts'
import { createStorage, type DispatchList, type GpuContext } from './context.ts'
import type { GpuDevice } from './device.ts'
import { PollThrottle } from './poll-throttle.ts'
import { readResults, type ResultLayout } from './results.ts'

type KernelTimes = NonNullable<StepOutput['kernels']>

/** Most passes of a step that are traced, with two queries each: WebGPU limits a query set to 4096 queries. */
const MAX_TRACED_DISPATCHES = 2048
/**
 * Most floating-point operations of one submission. Windows resets a device after a submission of 2 s; other drivers have other limits. An integrated
 * GPU of 0.3 TFLOPS needs 0.7 s for this many.
 */
export const SUBMISSION_OPERATIONS = 2e11

/** First query of each part of a step. The device may be idle between a step's layers and its sampling; that time is not counted. */
const FIRST_PART = 0
const SECOND_PART = 2
type Part = typeof FIRST_PART | typeof SECOND_PART

interface StepSubmission {
  readonly dispatches: DispatchList
  /** The first dispatches of the step were submitted before, by submitFirst. */
  readonly isContinued: boolean
  readonly layout: ResultLayout
  readonly results: GPUBuffer
  /** Rows of the step, from which its time is estimated. */
  readonly numRows: number
  /** Bytes of f32 values to read besides the results; 0: none. */
  readonly valueBytes: number
  copyValues(encoder: GPUCommandEncoder, target: GPUBuffer): void
}

/** A step's results; `values`: what `copyValues` copied, null where `valueBytes` is 0. */
type Submitted = Omit<StepOutput, 'logits' | 'pooled'> & { readonly values: Float32Array | null }

/**
 * The queues of this thread that are in use. Dawn aborts the process if a thread ends, by an exception or process.exit, while a promise of mapAsync is
 * pending. Destroying the buffer settles the promise at once. A thread that is ended from outside while it is blocked runs no such code.
 */
const queues = new Set<StepQueue>()
process.on('exit', () => {
  for (const queue of queues) queue.close()
})

/** Submits steps, measures them by timestamp queries, and reads their results back in order. */
export class StepQueue {
  readonly #context: GpuContext
  readonly #gpu: GpuDevice
  readonly #tracesKernels: boolean
  readonly #throttle = new PollThrottle()
  /** Readback buffers that are not in use. Two steps in flight use two. */
  readonly #idle: GPUBuffer[] = []
  /** Readback buffers of what has been submitted and not read yet. */
  readonly #mapping = new Set<GPUBuffer>()
  readonly #queries: GPUQuerySet | null
  readonly #traceQueries: GPUBuffer | null

  constructor(context: GpuContext, gpu: GpuDevice, options: { readonly traceKernels: boolean }) {
    this.#context = context
    this.#gpu = gpu
    const { hasTimestamps } = context.capabilities
    this.#tracesKernels = options.traceKernels && hasTimestamps
    this.#queries = hasTimestamps
      ? context.device.createQuerySet({ type: 'timestamp', count: this.#tracesKernels ? 2 * MAX_TRACED_DISPATCHES : 4 })
      : null
    this.#traceQueries = this.#tracesKernels
      ? context.device.createBuffer({
          label: 'kernel timestamps',
          size: 16 * MAX_TRACED_DISPATCHES,
          usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
        })
      : null
    queues.add(this)
  }

  /** Rejects the reads in flight. Call it before the device is destroyed. */
  close(): void {
    queues.delete(this)
    for (const buffer of this.#mapping) buffer.destroy()
  }

  /** Submits the first dispatches of a step; `submit` submits the rest. Does nothing and returns false where kernels are traced or there are none. */
  submitFirst(dispatches: DispatchList): boolean {
    if (this.#tracesKernels || dispatches.length === 0) return false
    this.#context.device.queue.submit([this.#encode(dispatches, FIRST_PART).finish()])
    return true
  }

  /** Encodes and submits a step, and resolves with its results. Rejects with DeviceLostError or with the first validation error. */
  async submit(step: StepSubmission): Promise<Submitted> {
    const { device } = this.#context
    const traced = this.#tracesKernels ? kernelNames(step.dispatches) : null
    const resultBytes = step.layout.words * 4
    const traceBytes = traced === null ? 0 : traced.length * 16
    const valuesAt = Math.ceil((resultBytes + traceBytes) / 256) * 256
    const readback = this.#acquire(valuesAt + step.valueBytes)
    const values = step.valueBytes === 0 ? null : createStorage(device, 'values readback', step.valueBytes)

    const numParts = step.isContinued ? 2 : 1
    const encoder = this.#encode(step.dispatches, step.isContinued ? SECOND_PART : FIRST_PART)
    if (this.#queries !== null && traced === null)
      encoder.resolveQuerySet(this.#queries, 0, 2 * numParts, step.results, 0)
    encoder.copyBufferToBuffer(step.results, 0, readback, 0, resultBytes)
    if (traced !== null && this.#traceQueries !== null && this.#queries !== null && traced.length > 0) {
      encoder.resolveQuerySet(this.#queries, 0, 2 * traced.length, this.#traceQueries, 0)
      encoder.copyBufferToBuffer(this.#traceQueries, 0, readback, resultBytes, traceBytes)
    }
    if (values !== null) {
      step.copyValues(encoder, values)
      encoder.copyBufferToBuffer(values, 0, readback, valuesAt, step.valueBytes)
    }
    device.queue.submit([encoder.finish()])

    let bytes: ArrayBuffer
    try {
      bytes = await this.#map(readback, step.numRows)
    } catch (error) {
      readback.destroy()
      throw error
    } finally {
      values?.destroy()
    }
    this.#release(readback)
    const timestamps = new BigUint64Array(bytes, 0, 2 * numParts)
    const kernels =
      traced === null
        ? null
        : sumByKernel(traced, new BigUint64Array(bytes.slice(resultBytes, resultBytes + traceBytes)))
    const stepMicros = this.#queries === null || traced !== null ? null : microsOf(timestamps)
    return {
      ...readResults(bytes, step.layout),
      values: values === null ? null : new Float32Array(bytes, valuesAt, step.valueBytes / 4),
      gpuMicros: kernels === null ? stepMicros : kernels.reduce((sum, { micros }) => sum + micros, 0),
      kernels,
    }
  }

  /** Reads `size` bytes, after everything submitted so far. An error of the device in this read rejects this call and no step. */
  async readBuffer(size: number, copy: (encoder: GPUCommandEncoder, target: GPUBuffer) => void): Promise<ArrayBuffer> {
    if (size === 0) return new ArrayBuffer(0)
    const { device } = this.#context
    device.pushErrorScope('validation')
    device.pushErrorScope('out-of-memory')
    const readback = device.createBuffer({
      size: Math.ceil(size / 4) * 4,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    })
    const encoder = device.createCommandEncoder()
    copy(encoder, readback)
    device.queue.submit([encoder.finish()])
    // The scopes end before anything is awaited, so that the next steps are outside them.
    const refused = Promise.all([device.popErrorScope(), device.popErrorScope()])
    try {
      for (const error of await this.#settled(refused)) {
        if (error !== null) throw new Error(`WebGPU: reading ${size} bytes: ${error.message}`)
      }
      return (await this.#map(readback, 1)).slice(0, size)
    } finally {
      readback.destroy()
    }
  }

  /** Encodes the dispatches of a part of a step, timed by two queries. Submits all pieces but the last and returns the encoder of the last. */
  #encode(dispatches: DispatchList, part: Part): GPUCommandEncoder {
    const { device, submissionOperations } = this.#context
    let encoder = device.createCommandEncoder()
    let operations = 0
    let first = 0
    for (let i = 0; i < dispatches.length; i++) {
      const next = dispatches.at(i).operations
      if (operations > 0 && operations + next > submissionOperations) {
        this.#encodePiece(encoder, dispatches, first, i, part)
        device.queue.submit([encoder.finish()])
        encoder = device.createCommandEncoder()
        first = i
        operations = 0
      }
      operations += next
    }
    this.#encodePiece(encoder, dispatches, first, dispatches.length, part)
    return encoder
  }

  /** Encodes dispatches `first` to `end` - 1 in one pass, or one pass each when kernels are traced: WebGPU writes timestamps only around passes. */
  #encodePiece(encoder: GPUCommandEncoder, dispatches: DispatchList, first: number, end: number, part: Part): void {
    if (this.#tracesKernels) {
      for (let i = first; i < end; i++) {
        const isTraced = i < MAX_TRACED_DISPATCHES
        this.#encodePass(encoder, dispatches, i, i + 1, isTraced ? 2 * i : undefined, isTraced ? 2 * i + 1 : undefined)
      }
      return
    }
    const [begin, finish] = [first === 0 ? part : undefined, end === dispatches.length ? part + 1 : undefined]
    this.#encodePass(encoder, dispatches, first, end, begin, finish)
  }

  #encodePass(
    encoder: GPUCommandEncoder,
    dispatches: DispatchList,
    first: number,
    end: number,
    beginQuery: number | undefined,
    endQuery: number | undefined,
  ): void {
    const isTimed = this.#queries !== null && (beginQuery !== undefined || endQuery !== undefined)
    const pass = encoder.beginComputePass(
      isTimed
        ? {
            timestampWrites: {
              querySet: this.#queries!,
              ...(beginQuery === undefined ? {} : { beginningOfPassWriteIndex: beginQuery }),
              ...(endQuery === undefined ? {} : { endOfPassWriteIndex: endQuery }),
            },
          }
        : {},
    )
    let pipeline: GPUComputePipeline | null = null
    for (let i = first; i < end; i++) {
      const dispatch = dispatches.at(i)
      if (dispatch.pipeline !== pipeline) {
        pipeline = dispatch.pipeline
        pass.setPipeline(pipeline)
      }
      pass.setBindGroup(0, dispatch.group)
      if (dispatch.y === 1) pass.dispatchWorkgroups(dispatch.x)
      else pass.dispatchWorkgroups(dispatch.x, dispatch.y)
    }
    pass.end()
  }

  #acquire(size: number): GPUBuffer {
    const at = this.#idle.findIndex((buffer) => buffer.size >= size)
    if (at >= 0) return this.#idle.splice(at, 1)[0]!
    // Rounded up, so that the buffer is large enough for steps of a few more rows.
    return this.#context.device.createBuffer({
      label: 'readback',
      size: Math.max(4096, 2 ** Math.ceil(Math.log2(size))),
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    })
  }

  #release(buffer: GPUBuffer): void {
    buffer.unmap()
    this.#idle.push(buffer)
    // Two steps in flight use two. Of more than four, the oldest is destroyed.
    if (this.#idle.length > 4) this.#idle.shift()?.destroy()
  }

  /** Maps a buffer and returns a copy of its bytes. Rejects with the error of a lost device or of a step that the device refused. */
  async #map(buffer: GPUBuffer, work: number): Promise<ArrayBuffer> {
    this.#mapping.add(buffer)
    try {
      await this.#throttle.wait(buffer.mapAsync(GPUMapMode.READ), work)
    } catch (error) {
      throw await this.#explain(error)
    } finally {
      this.#mapping.delete(buffer)
    }
    if (this.#gpu.lost.error !== null) throw this.#gpu.lost.error
    const refused = this.#gpu.takeError()
    if (refused !== null) throw refused
    return buffer.getMappedRange().slice(0)
  }

  /** Awaits a promise of the device; where the device is lost, rejects with the error that says so. */
  async #settled<T>(promise: Promise<T>): Promise<T> {
    try {
      return await promise
    } catch (error) {
      throw await this.#explain(error)
    }
  }

  async #explain(error: unknown): Promise<unknown> {
    // The rejection of the map may arrive before device.lost resolves: give that a turn of the event loop.
    await new Promise((resolve) => setTimeout(resolve, 0))
    return this.#gpu.lost.error ?? this.#gpu.takeError() ?? error
  }
}

/** The total time, in microseconds, between the first and second timestamp of each pair. */
function microsOf(timestamps: BigUint64Array): number {
  let nanos = 0n
  for (let i = 0; i < timestamps.length; i += 2) nanos += timestamps[i + 1]! - timestamps[i]!
  return Number(nanos) / 1000
}

/** The kernel names of the dispatches that are traced. */
function kernelNames(dispatches: DispatchList): string[] {
  const length = Math.min(dispatches.length, MAX_TRACED_DISPATCHES)
  return Array.from({ length }, (_, i) => dispatches.at(i).kernel)
}

function sumByKernel(names: readonly string[], timestamps: BigUint64Array): KernelTimes {
  const times = new Map<string, { kernel: string; micros: number; count: number }>()
  for (const [i, kernel] of names.entries()) {
    let entry = times.get(kernel)
    if (entry === undefined) times.set(kernel, (entry = { kernel, micros: 0, count: 0 }))
    entry.micros += Number(timestamps[2 * i + 1]! - timestamps[2 * i]!) / 1000
    entry.count++
  }
  return [...times.values()].toSorted((a, b) => b.micros - a.micros)
}
