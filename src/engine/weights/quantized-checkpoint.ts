/**
 * Reads quantised safetensors checkpoints as if they were plain: AWQ and GPTQ in 4 bits, compressed-tensors in 4 and 8 bits, FP8, MXFP4. The packed
 * tensors of a linear layer appear as one `weight` [out, in], with its exact codes and scales. Layouts from AutoAWQ, GPTQModel, compressed-tensors and
 * DeepSeek's FP8.
 */
import { dequantize } from '../../kernels/dequantize.ts'
import { encodeF16 } from '../../kernels/float.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import { ModelError } from '../runner/runner.ts'
import type { TensorInfo, WeightSource } from './source.ts'

/** A source that also reads a tensor's bytes as they are stored. */
export interface RawWeightSource extends WeightSource {
  readRaw(name: string): Promise<ArrayBuffer>
  /** The bytes of part `index` along the first dimension. */
  readRawSlice(name: string, index: number): Promise<ArrayBuffer>
}

/** The column, among the eight of an AWQ word, that nibble i belongs to. */
const AWQ_ORDER: readonly number[] = [0, 2, 4, 6, 1, 3, 5, 7]
const IN_ORDER: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7]

type Unpack = (stem: string) => Promise<MatrixData>
interface Packed {
  readonly shape: readonly [rows: number, cols: number]
  readonly unpack: Unpack
}

interface Stacked {
  /** The tensor's name in the unpacked checkpoint. */
  readonly weight: string
  readonly shape: readonly [experts: number, rows: number, cols: number]
  readonly unpack: (expert: number) => Promise<MatrixData>
}

class QuantizedSource {
  readonly #source: RawWeightSource
  readonly #config: Readonly<Record<string, unknown>>

  constructor(source: RawWeightSource, config: Readonly<Record<string, unknown>>) {
    this.#source = source
    this.#config = config
  }

  /** How to make `stem.weight` from this tensor; null: the tensor is plain. */
  packed(stem: string, part: string, { dtype, shape }: TensorInfo): Packed | null {
    const [a = 0, b = 0] = shape
    const { quant_method: method } = this.#config
    if (part === 'qweight' && method === 'awq') {
      return { shape: [b * 8, a], unpack: (name) => this.#awq(name, b * 8, a) }
    }
    if (part === 'qweight' && method === 'gptq') {
      return { shape: [b, a * 8], unpack: (name) => this.#gptq(name, b, a * 8) }
    }
    if (part === 'weight_packed') {
      const perWord = 32 / this.#bits()
      return { shape: [a, b * perWord], unpack: (name) => this.#packedRows(name, a, b * perWord) }
    }
    if (part === 'weight' && dtype === 'I8') return { shape: [a, b], unpack: (name) => this.#int8(name, a, b) }
    if (part === 'weight' && dtype === 'F8_E4M3') return { shape: [a, b], unpack: (name) => this.#fp8(name, a, b) }
    return null
  }

  /** The experts' matrices in MXFP4: codes [experts, rows, groups, 16 bytes] and one power of two per group; null: the tensor is none of these. */
  stacked(name: string, { shape }: TensorInfo): Stacked | null {
    const [experts = 0, rows = 0, groups = 0] = shape
    if (this.#config['quant_method'] !== 'mxfp4' || !name.endsWith('_blocks') || shape.length !== 4) return null
    const stem = name.slice(0, -'_blocks'.length)
    return {
      weight: `${stem}.weight`,
      shape: [experts, rows, groups * 32],
      unpack: async (expert) => {
        const codes = new Uint8Array(await this.#source.readRawSlice(name, expert))
        const exponents = new Uint8Array(await this.#source.readRawSlice(`${stem}_scales`, expert))
        return { format: 'mxfp4', group: 32, codes, exponents }
      },
    }
  }

  /** Bits per weight, from the config. */
  #bits(): 4 | 8 {
    const groups = Object.values((this.#config['config_groups'] ?? {}) as Record<string, unknown>)
    const [group] = groups as { weights?: { num_bits?: unknown } }[]
    const bits = this.#config['bits'] ?? this.#config['w_bit'] ?? group?.weights?.num_bits ?? 4
    if (bits === 4 || bits === 8) return bits
    throw new ModelError(`${this.#source.path}: quantization_config: expected 4 or 8 bits, found ${String(bits)}`)
  }

  async #floats(name: string): Promise<Float32Array> {
    return dequantize(await this.#source.read(name))
  }

  async #words(name: string): Promise<Uint32Array> {
    return new Uint32Array(await this.#source.readRaw(name))
  }

  #fail(name: string, problem: string): never {
    throw new ModelError(
      `${this.#source.path}: ${name}: ${problem}. Use the model in another quantisation, or as GGUF.`,
    )
  }

  /** Columns that share a scale. Has to be a multiple of 32, the group of the planes. */
  #groupOf(name: string, cols: number, numGroups: number): number {
    const group = cols / numGroups
    if (!Number.isInteger(group) || group % 32 !== 0) this.#fail(name, `groups of ${group} are not a multiple of 32`)
    return group
  }

  async #awq(stem: string, rows: number, cols: number): Promise<MatrixData> {
    if (this.#bits() !== 4) this.#fail(stem, 'AWQ in 8 bits is not served')
    const words = await this.#words(`${stem}.qweight`) // [cols, rows / 8]
    const codeOf = (row: number, col: number): number =>
      (words[col * (rows / 8) + (row >> 3)]! >>> (4 * AWQ_ORDER.indexOf(row & 7))) & 15
    return this.#asymmetric(stem, rows, cols, codeOf, AWQ_ORDER, 0)
  }

  async #gptq(stem: string, rows: number, cols: number): Promise<MatrixData> {
    if (this.#bits() !== 4) this.#fail(stem, 'GPTQ in 8 bits is not served')
    const words = await this.#words(`${stem}.qweight`) // [cols / 8, rows]
    const codeOf = (row: number, col: number): number => (words[(col >> 3) * rows + row]! >>> (4 * (col & 7))) & 15
    // The first version of the format stores zero points minus one.
    return this.#asymmetric(stem, rows, cols, codeOf, IN_ORDER, this.#config['checkpoint_format'] === 'gptq_v2' ? 0 : 1)
  }

  /** w = (code - zero) scale, with a scale and a zero point per row and group of columns. */
  async #asymmetric(
    stem: string,
    rows: number,
    cols: number,
    codeOf: (row: number, col: number) => number,
    order: readonly number[],
    zeroOffset: number,
  ): Promise<MatrixData> {
    const stored = await this.#floats(`${stem}.scales`) // [groups, rows]
    const zeros = await this.#words(`${stem}.qzeros`) // [groups, rows / 8]
    const group = this.#groupOf(stem, cols, stored.length / rows)
    if (this.#source.tensors.has(`${stem}.g_idx`)) {
      const index = await this.#words(`${stem}.g_idx`)
      if (index.some((found, col) => found !== Math.floor(col / group)))
        this.#fail(stem, 'weights that are ordered by activation (desc_act) are not served')
    }
    const codes = new Uint8Array((rows * cols) / 2)
    const scales = new Float32Array((rows * cols) / 32)
    const mins = new Float32Array(scales.length)
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col += 2)
        codes[(row * cols + col) / 2] = codeOf(row, col) | (codeOf(row, col + 1) << 4)
      for (let block = 0; block < cols / 32; block++) {
        const at = Math.floor((block * 32) / group)
        const nibble = (zeros[at * (rows / 8) + (row >> 3)]! >>> (4 * order.indexOf(row & 7))) & 15
        const scale = stored[at * rows + row]!
        scales[(row * cols) / 32 + block] = scale
        mins[(row * cols) / 32 + block] = -(nibble + zeroOffset) * scale
      }
    }
    return { format: 'q4', group: 32, codes, scales, mins }
  }

  /** Scales [rows, groups], repeated so that there is one per 32 columns. */
  async #spread(stem: string, rows: number, cols: number): Promise<Float32Array> {
    const stored = await this.#floats(`${stem}.weight_scale`)
    const numGroups = stored.length / rows
    const group = this.#groupOf(stem, cols, numGroups)
    return Float32Array.from({ length: (rows * cols) / 32 }, (_, i) => {
      const row = Math.floor(i / (cols / 32))
      return stored[row * numGroups + Math.floor(((i % (cols / 32)) * 32) / group)]!
    })
  }

  /** Codes of a row, packed in words. Half their range is subtracted. */
  async #packedRows(stem: string, rows: number, cols: number): Promise<MatrixData> {
    if (this.#source.tensors.has(`${stem}.weight_zero_point`)) this.#fail(stem, 'zero points are not served')
    const scales = await this.#spread(stem, rows, cols)
    const bytes = new Uint8Array(await this.#source.readRaw(`${stem}.weight_packed`))
    if (this.#bits() === 4) return { format: 'q4', group: 32, codes: bytes, scales, mins: null }
    return { format: 'q8', group: 32, codes: Int8Array.from(bytes, (byte) => byte - 128), scales, mins: null }
  }

  async #int8(stem: string, rows: number, cols: number): Promise<MatrixData> {
    const codes = new Int8Array(await this.#source.readRaw(`${stem}.weight`))
    return { format: 'q8', group: 32, codes, scales: await this.#spread(stem, rows, cols), mins: null }
  }

  /** FP8 with one scale per matrix, per row or per block of a grid. The values become f16, which has more bits of fraction than FP8's three. */
  async #fp8(stem: string, rows: number, cols: number): Promise<MatrixData> {
    const name = [`${stem}.weight_scale_inv`, `${stem}.weight_scale`].find((key) => this.#source.tensors.has(key))
    if (name === undefined) this.#fail(`${stem}.weight`, 'has no weight_scale')
    const scales = await this.#floats(name)
    const { shape = [] } = this.#source.tensors.get(name) ?? {}
    const [gridRows = 1, gridCols = 1] = shape
    const size = this.#config['weight_block_size']
    const isGrid = gridCols > 1 || (Array.isArray(size) && gridRows !== rows)
    const [blockRows, blockCols] =
      isGrid && Array.isArray(size)
        ? (size as [number, number])
        : [Math.ceil(rows / gridRows), Math.ceil(cols / gridCols)]
    const bytes = new Uint8Array(await this.#source.readRaw(`${stem}.weight`))
    const values = Float32Array.from(bytes, (byte, i) => {
      const row = Math.floor(i / cols)
      const scale = scales[Math.floor(row / blockRows) * gridCols + Math.floor((i % cols) / blockCols)]!
      return FP8_VALUES[byte]! * scale
    })
    return values.every((value) => Math.abs(value) < 65_504)
      ? { format: 'f16', values: encodeF16(values) }
      : { format: 'f32', values }
  }
}

/** The values of E4M3: sign, four bits of exponent (bias 7), three of fraction. There are no infinities; all ones are NaN. */
const FP8_VALUES = Float32Array.from({ length: 256 }, (_, byte) => {
  const exponent = (byte >> 3) & 15
  const fraction = (byte & 7) / 8
  if ((byte & 127) === 127) return Number.NaN
  return (byte >> 7 === 1 ? -1 : 1) * (exponent === 0 ? fraction * 2 ** -6 : (1 + fraction) * 2 ** (exponent - 7))
})

const METHODS = ['awq', 'gptq', 'compressed-tensors', 'fp8', 'mxfp4']
const SIDE_PARTS = new Set([
  'scales',
  'qzeros',
  'g_idx',
  'weight_scale',
  'weight_scale_inv',
  'weight_shape',
  'weight_zero_point',
  'weight_g_idx',
  'input_scale',
])

/**
 * The checkpoint with quantised linear layers unpacked as they are read.
 * @param config `quantization_config` of config.json
 * @throws ModelError for a method that is not served
 */
export function unpackCheckpoint(source: RawWeightSource, config: Readonly<Record<string, unknown>>): WeightSource {
  const method = config['quant_method']
  if (typeof method !== 'string' || !METHODS.includes(method)) {
    throw new ModelError(
      `${source.path}: quantization_config: quant_method ${JSON.stringify(method)} is not served; known: ${METHODS.join(', ')}. Use the model as GGUF, or unquantised.`,
    )
  }
  const quantized = new QuantizedSource(source, config)
  const tensors = new Map<string, TensorInfo>()
  const unpacks = new Map<string, () => Promise<MatrixData>>()
  const stacks = new Map<string, Stacked>()
  for (const [name, info] of source.tensors) {
    const dot = name.lastIndexOf('.')
    const [stem, part] = [name.slice(0, dot), name.slice(dot + 1)]
    const packed = quantized.packed(stem, part, info)
    const stacked = quantized.stacked(name, info)
    if (stacked !== null) {
      const { weight, shape } = stacked
      tensors.set(weight, { name: weight, dtype: `${method} ${info.dtype}`, shape, bytes: info.bytes })
      stacks.set(weight, stacked)
    } else if (packed !== null) {
      const weight = `${stem}.weight`
      tensors.set(weight, { name: weight, dtype: `${method} ${info.dtype}`, shape: packed.shape, bytes: info.bytes })
      unpacks.set(weight, () => packed.unpack(stem))
    } else if (!SIDE_PARTS.has(part) && !name.endsWith('_scales')) tensors.set(name, info)
  }
  return {
    ...source,
    tensors,
    read: async (name) => (unpacks.get(name) ?? (() => source.read(name)))(),
    rows: (name) => (unpacks.has(name) ? null : source.rows(name)),
    slice: async (name, index) => stacks.get(name)?.unpack(index) ?? source.slice(name, index),
  }
}
