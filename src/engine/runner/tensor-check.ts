/** Checks a checkpoint's tensors before any of them is read. */
import type { Activation, ExpertMatrix, Matrix, Norm, Routing, RoutingShape, Vector } from '../../kernels/ops.ts'
import { expectTensor, expectValues, type TensorInfo, type WeightSource } from '../weights/source.ts'
import { expertBiasName, type ExpertPart, expertTensor, type Parameters, type Part } from './parameters.ts'

const MATRIX: Matrix = { label: 'checked', rows: 0, cols: 0, format: 'f32' }
const VECTOR: Vector = { label: 'checked', length: 0 }

/**
 * Takes the place of a model's parameters in a trial load: each tensor that the load asks for has to be there with its shape. What it gives back
 * cannot be computed with. Every method throws ModelError that names the tensor at fault.
 */
export class TensorCheck implements Parameters {
  readonly source: WeightSource
  readonly #found = new Set<TensorInfo>()

  constructor(source: WeightSource) {
    this.source = source
  }

  /** The tensors that were asked for. */
  get found(): ReadonlySet<TensorInfo> {
    return this.#found
  }

  has(name: string): boolean {
    return this.source.tensors.has(name)
  }

  async matrix(parts: readonly Part[], cols: number): Promise<Matrix> {
    for (const [name, count, , rows = count] of parts) this.#shape(`${name}.weight`, [rows, cols])
    return Promise.resolve(MATRIX)
  }

  async bias(isPresent: boolean, parts: readonly Part[]): Promise<Vector | undefined> {
    if (isPresent) for (const [name, count, , rows = count] of parts) this.#shape(`${name}.bias`, [rows])
    return Promise.resolve(isPresent ? VECTOR : undefined)
  }

  async experts(parts: readonly ExpertPart[], numExperts: number, cols: number): Promise<ExpertMatrix> {
    for (const part of parts) {
      const { name, rows } = part
      const found = expertTensor(this.source, part)
      if (found?.isStacked === true)
        this.#shape(found.name, found.isTransposed ? [numExperts, cols, rows] : [numExperts, rows, cols])
      else if (!name.includes('*')) this.#shape(name, [numExperts, rows, cols])
      else {
        for (let expert = 0; expert < numExperts; expert++)
          this.#shape(`${name.replace('*', String(expert))}.weight`, [rows, cols])
      }
    }
    return Promise.resolve({ ...MATRIX, numExperts })
  }

  async expertBias(parts: readonly ExpertPart[], numExperts: number): Promise<Vector> {
    for (const part of parts) this.#values(expertBiasName(this.source, part), [numExperts, part.rows])
    return Promise.resolve(VECTOR)
  }

  async norm(name: string, length: number): Promise<Norm> {
    this.#values(`${name}.weight`, [length])
    return Promise.resolve({ weight: VECTOR, eps: 0 })
  }

  async vector(name: string, shape: readonly number[]): Promise<Vector> {
    this.#values(name, shape)
    return Promise.resolve(VECTOR)
  }

  async scalar(name: string): Promise<number> {
    this.#values(name, [])
    return Promise.resolve(1)
  }

  routing(shape: RoutingShape): Routing {
    return { label: 'checked', ...shape }
  }

  activation(label: string, cols: number): Activation {
    return { label, cols }
  }

  #shape(name: string, shape: readonly number[]): void {
    this.#found.add(expectTensor(this.source, name, shape))
  }

  #values(name: string, shape: readonly number[]): void {
    this.#found.add(expectValues(this.source, name, shape))
  }
}
