/** Quantises float weights while they load (--quantization q8 or q4), to the planes of ops.ts. */
import { dequantize } from '../../kernels/dequantize.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import type { WeightSource } from './source.ts'

const GROUP = 32

/** Symmetric 8-bit quantisation: the largest magnitude of a group of 32 becomes 127. */
export function quantizeQ8(values: Float32Array): MatrixData & { format: 'q8' } {
  const codes = new Int8Array(values.length)
  const scales = new Float32Array(values.length / GROUP)
  for (let g = 0; g < scales.length; g++) {
    let largest = 0
    for (let i = g * GROUP; i < (g + 1) * GROUP; i++) largest = Math.max(largest, Math.abs(values[i]!))
    scales[g] = largest / 127
    const inverse = scales[g] === 0 ? 0 : 1 / scales[g]!
    for (let i = g * GROUP; i < (g + 1) * GROUP; i++)
      codes[i] = Math.round(Math.max(-127, Math.min(127, values[i]! * inverse)))
  }
  return { format: 'q8', group: 32, codes, scales, mins: null }
}

/** Rounds of refitting scale and minimum to the codes. The squared error falls by about a tenth, nearly all of it in the first two rounds. */
const REFITS = 2

/**
 * 4-bit quantisation with minimums: 16 levels from the smallest to the largest value of a group of 32. Then scale and minimum are refitted to the codes by
 * least squares, and the codes to them, while the squared error falls.
 */
export function quantizeQ4(values: Float32Array): MatrixData & { format: 'q4' } {
  const codes = new Uint8Array(values.length / 2)
  const scales = new Float32Array(values.length / GROUP)
  const mins = new Float32Array(values.length / GROUP)
  const trial = new Uint8Array(GROUP)
  const best = new Uint8Array(GROUP)
  for (let g = 0; g < scales.length; g++) {
    const start = g * GROUP
    let min = Infinity
    let max = -Infinity
    let sumX = 0
    for (let i = 0; i < GROUP; i++) {
      const value = values[start + i]!
      min = Math.min(min, value)
      max = Math.max(max, value)
      sumX += value
    }
    let scale = (max - min) / 15
    let bestError = Infinity
    for (let round = 0; round <= REFITS; round++) {
      scale = Math.fround(scale)
      min = Math.fround(min)
      let error = 0
      let sumQ = 0
      let sumQQ = 0
      let sumQX = 0
      for (let i = 0; i < GROUP; i++) {
        const value = values[start + i]!
        const code = scale === 0 ? 0 : Math.max(0, Math.min(15, Math.round((value - min) / scale)))
        trial[i] = code
        error += (code * scale + min - value) ** 2
        sumQ += code
        sumQQ += code * code
        sumQX += code * value
      }
      if (error >= bestError) break
      bestError = error
      best.set(trial)
      scales[g] = scale
      mins[g] = min
      const determinant = GROUP * sumQQ - sumQ * sumQ
      if (determinant === 0) break
      scale = (GROUP * sumQX - sumQ * sumX) / determinant
      min = (sumX - scale * sumQ) / GROUP
    }
    for (let i = 0; i < GROUP; i += 2) codes[(start + i) / 2] = best[i]! | (best[i + 1]! << 4)
  }
  return { format: 'q4', group: 32, codes, scales, mins }
}

/** Routers are not quantised: they are small, and rounding could select another expert. */
const isRouter = (name: string): boolean =>
  /\.(?:gate|shared_expert_gate|router|router\.layer|router\.proj|modality_router)\.weight$/.test(name)

/** Embeddings and the output head lose most with 4 bits. They get 8, as in llama.cpp's mixed files. */
const isVocabulary = (name: string): boolean => name.endsWith('embed_tokens.weight') || name.endsWith('lm_head.weight')

/**
 * The source with float matrices quantised as they are read. Vectors, quantised matrices, and matrices with rows that are not a multiple of 32 stay as
 * they are.
 */
export function quantizing(source: WeightSource, quantization: 'q8' | 'q4'): WeightSource {
  const quantize = (name: string, data: MatrixData): MatrixData => {
    const shape = source.tensors.get(name)?.shape ?? []
    const cols = shape.length < 2 || name.endsWith('bias') || isRouter(name) ? 0 : (shape.at(-1) ?? 0)
    if (cols === 0 || cols % GROUP !== 0 || (data.format !== 'f32' && data.format !== 'f16')) return data
    const values = dequantize(data)
    return quantization === 'q8' || isVocabulary(name) ? quantizeQ8(values) : quantizeQ4(values)
  }
  return {
    ...source,
    read: async (name) => quantize(name, await source.read(name)),
    slice: async (name, index) => quantize(name, await source.slice(name, index)),
    rows(name) {
      const rows = source.rows(name)
      return rows === null ? null : { read: async (first, count) => quantize(name, await rows.read(first, count)) }
    },
  }
}
