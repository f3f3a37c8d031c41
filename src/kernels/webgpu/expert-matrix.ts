/**
 * Experts' matrices on the device. Each has the layout of matrix.ts. A shard's buffers contain the matrices of consecutive experts, as many as fit
 * one binding. Each expert has its own weight scale (a power of two, see matrix.ts); these are at the end of the scales buffer.
 */
import { checkMatrix } from '../dequantize.ts'
import type { ExpertsUse, StoredMatrix } from '../backend.ts'
import type { ExpertMatrix, MatrixData, MatrixFormat } from '../ops.ts'
import { createStorage } from './context.ts'
import {
  codeWords,
  fillShard,
  formOf,
  type MatrixLoader,
  plan,
  type Plan,
  shiftOf,
  weightForm,
  type WeightForm,
} from './matrix.ts'

/** Bytes that are given to the device before its queue is awaited. It limits the staging memory. */
const UPLOAD_BYTES = 32 * 2 ** 20

export interface ExpertShard {
  readonly codes: GPUBuffer
  readonly scales: GPUBuffer
  readonly firstExpert: number
  readonly numExperts: number
  /** Word of `scales` where the experts' weight scales begin, one f32 each. */
  readonly factorsAt: number
}

export interface GpuExpertMatrix extends ExpertMatrix {
  readonly form: WeightForm
  readonly numBlocks: number
  readonly isGated: boolean
  /** Packed rows per expert. */
  readonly packedRows: number
  readonly shards: readonly ExpertShard[]
}

/** One expert's bytes, in the layout of the device. */
interface PackedExpert {
  readonly format: MatrixFormat
  readonly form: WeightForm
  readonly shift: number
  readonly codes: Uint8Array<ArrayBuffer>
  readonly scales: Uint8Array<ArrayBuffer>
}

class ExpertUpload {
  readonly #loader: MatrixLoader
  readonly #label: string
  readonly #numExperts: number
  readonly #rows: number
  readonly #cols: number
  readonly #isGated: boolean
  #placed: { plan: Plan; format: MatrixFormat; perShard: number; shards: ExpertShard[] } | null = null
  #pendingBytes = 0

  constructor(
    loader: MatrixLoader,
    label: string,
    shape: { numExperts: number; rows: number; cols: number; isGated: boolean },
  ) {
    this.#loader = loader
    this.#label = label
    this.#numExperts = shape.numExperts
    this.#rows = shape.rows
    this.#cols = shape.cols
    this.#isGated = shape.isGated
  }

  /** The layout of one expert. @throws Error where it exceeds the largest binding or differs in format from earlier experts */
  plan(form: WeightForm): Plan {
    const planned = this.#placed?.plan ?? plan(this.#loader, this.#label, this.#rows, this.#cols, form, this.#isGated)
    if (planned.shards.length > 1) throw new Error(`${this.#label}: one expert exceeds the adapter's largest binding`)
    const { FORMAT, FP4, GROUP, MINS } = planned.form
    if (form.FORMAT !== FORMAT || form.FP4 !== FP4 || form.GROUP !== GROUP || form.MINS !== MINS)
      throw new Error(`${this.#label}: all experts must have the same format`)
    return planned
  }

  async add(expert: number, { format, form, shift, codes, scales }: PackedExpert): Promise<void> {
    const { device } = this.#loader
    const { perShard, shards } = this.#place(this.plan(form), format)
    const shard = shards[Math.floor(expert / perShard)]!
    const index = expert - shard.firstExpert
    device.queue.writeBuffer(shard.codes, index * codes.length, codes)
    device.queue.writeBuffer(shard.scales, index * scales.length, scales)
    device.queue.writeBuffer(shard.scales, (shard.factorsAt + index) * 4, Float32Array.of(1 / shift))
    this.#pendingBytes += codes.length + scales.length
    if (this.#pendingBytes < UPLOAD_BYTES) return
    this.#pendingBytes = 0
    await device.queue.onSubmittedWorkDone()
  }

  async finish(): Promise<GpuExpertMatrix> {
    if (this.#placed === null) throw new Error(`${this.#label}: no experts`)
    await this.#loader.device.queue.onSubmittedWorkDone()
    const { plan: planned, format, shards } = this.#placed
    return {
      label: this.#label,
      numExperts: this.#numExperts,
      rows: this.#rows,
      cols: this.#cols,
      format,
      form: planned.form,
      numBlocks: planned.numBlocks,
      isGated: this.#isGated,
      packedRows: planned.order.length,
      shards,
    }
  }

  #place(planned: Plan, format: MatrixFormat) {
    if (this.#placed !== null) return this.#placed
    const [codeBytes = 0, scaleBytes = 0] = planned.shards[0]!.bytes
    const { device, maxBindingBytes } = this.#loader
    const most = Math.floor(maxBindingBytes / Math.max(codeBytes, scaleBytes + 4))
    const perShard = Math.max(1, Math.min(this.#numExperts, most))
    const shards = Array.from({ length: Math.ceil(this.#numExperts / perShard) }, (_, i) => {
      const firstExpert = i * perShard
      const numExperts = Math.min(perShard, this.#numExperts - firstExpert)
      return {
        firstExpert,
        numExperts,
        codes: createStorage(device, `${this.#label} codes`, numExperts * codeBytes),
        scales: createStorage(device, `${this.#label} scales`, numExperts * (scaleBytes + 4)),
        factorsAt: (numExperts * scaleBytes) / 4,
      }
    })
    this.#placed = { plan: planned, format, perShard, shards }
    return this.#placed
  }
}

/** Repacks experts' matrices and uploads them, one expert after another. */
export async function uploadExperts(
  loader: MatrixLoader,
  label: string,
  shape: { readonly numExperts: number; readonly rows: number; readonly cols: number },
  load: (expert: number) => Promise<MatrixData>,
  use: ExpertsUse,
): Promise<GpuExpertMatrix> {
  const { numExperts, rows, cols } = shape
  const upload = new ExpertUpload(loader, label, { ...shape, isGated: use.glu === true })
  for (let expert = 0; expert < numExperts; expert++) {
    const data = await load(expert)
    checkMatrix(`${label} ${expert}`, rows, cols, data)
    const form = weightForm(data)
    const planned = upload.plan(form)
    const [codes, scales] = planned.shards[0]!.bytes.map((bytes) => new ArrayBuffer(bytes)) as [
      ArrayBuffer,
      ArrayBuffer,
    ]
    const shift = shiftOf(data)
    fillShard(planned, 0, data, cols, codeWords(data, rows, cols, planned.units), shift, codes, scales)
    const planes = [new Uint8Array(codes), new Uint8Array(scales)] as const
    await upload.add(expert, { format: data.format, form, shift, codes: planes[0], scales: planes[1] })
    await use.onPacked?.({ format: data.format, form: { ...form, shift }, planes }, expert)
  }
  return upload.finish()
}

/** Uploads experts' matrices that were packed before. @throws RangeError where forms or sizes do not fit */
export async function importExperts(
  loader: MatrixLoader,
  label: string,
  shape: { readonly numExperts: number; readonly rows: number; readonly cols: number },
  stored: (expert: number) => StoredMatrix,
  use: ExpertsUse,
): Promise<GpuExpertMatrix> {
  const upload = new ExpertUpload(loader, label, { ...shape, isGated: use.glu === true })
  for (let expert = 0; expert < shape.numExperts; expert++) {
    const { format, form: own, planeBytes, read } = stored(expert)
    const { GROUP = 32, MINS = 0, shift = 1 } = own
    const form = formOf(format, GROUP, MINS === 1)
    const { bytes } = upload.plan(form).shards[0]!
    if (
      form.FORMAT !== own['FORMAT'] ||
      bytes.length !== planeBytes.length ||
      bytes.some((n, i) => n !== planeBytes[i])
    )
      throw new RangeError(`${label}: stored planes of ${planeBytes.join(', ')} bytes do not fit expert ${expert}`)
    const [codes, scales] = bytes.map((length) => new Uint8Array(length)) as [
      Uint8Array<ArrayBuffer>,
      Uint8Array<ArrayBuffer>,
    ]
    await read(0, codes)
    await read(1, scales)
    await upload.add(expert, { format, form, shift, codes, scales })
  }
  return upload.finish()
}
