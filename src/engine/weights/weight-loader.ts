/** Where a model takes its weights from: the checkpoint, or weights that an earlier start packed (packed-cache.ts). */
import type { Backend, ExpertsUse, MatrixUse } from '../../kernels/backend.ts'
import type { ExpertMatrix, Matrix, MatrixData, MatrixRows } from '../../kernels/ops.ts'
import { readVector, type WeightSource } from './source.ts'

/** Loads the weights of one model. */
export interface WeightLoader {
  /** A matrix on the backend. `data` gives its values where they are not packed yet. */
  matrix(
    label: string,
    rows: number,
    cols: number,
    use: MatrixUse,
    data: () => Promise<MatrixData | MatrixRows>,
  ): Promise<Matrix>
  /** The matrices of `numExperts` experts. `data` is called for one expert after the other. */
  experts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    use: ExpertsUse,
    data: (expert: number) => Promise<MatrixData>,
  ): Promise<ExpertMatrix>
  /** The values of a small tensor, in the order stored. */
  vector(name: string, length: number): Promise<Float32Array>
}

/** Loads weights from the checkpoint, without a packed file. */
export function unpackedLoader(backend: Backend, source: WeightSource): WeightLoader {
  return {
    matrix: async (label, rows, cols, use, data) => backend.loadMatrix(label, rows, cols, await data(), use),
    experts: (label, numExperts, rows, cols, use, data) =>
      backend.loadExperts(label, numExperts, rows, cols, data, use),
    vector: (name, length) => readVector(source, name, length),
  }
}
