/** Reads a model's tensors onto a backend, and checks beforehand that they are there: what every part of a layer is loaded with. */
import type { Activation, Backend, Matrix, MatrixData, MatrixUse, Norm, Vector } from '../../kernels/ops.ts'
import type { WeightLoader } from '../weights/packed-cache.ts'
import { concatRows, expectTensor, openMatrix, readMatrix, takeRows, type WeightSource } from '../weights/source.ts'

/**
 * A tensor that gives rows to a matrix. `from`: which stored row stands at a row; absent: they stand as stored. `stored`: rows of the tensor, where
 * it has others too.
 */
export type Part = readonly [name: string, rows: number, from?: ((row: number) => number) | undefined, stored?: number]

/** How norms of a family are stored and computed. */
export interface NormRule {
  readonly eps: number
  /** Stored as w with 1 + w meant. */
  readonly addsOne: boolean
}

export class Parameters {
  readonly #backend: Backend
  readonly #source: WeightSource
  readonly #weights: WeightLoader
  readonly #norms: NormRule
  readonly #activations = new Map<string, Activation>()

  /** @param weights where matrices come from: the source, or what was packed of it at an earlier start */
  constructor(backend: Backend, source: WeightSource, weights: WeightLoader, norms: NormRule) {
    this.#backend = backend
    this.#source = source
    this.#weights = weights
    this.#norms = norms
  }

  /** One matrix of the parts' rows, one part below the other. */
  async matrix(parts: readonly Part[], cols: number, use: MatrixUse = {}): Promise<Matrix> {
    const rows = parts.reduce((sum, [, count]) => sum + count, 0)
    const label = parts.map(([name]) => name).join('+')
    return this.#weights.matrix(label, rows, cols, use, async () => {
      const [[only, , order] = ['']] = parts
      if (parts.length === 1 && order === undefined) return openMatrix(this.#source, `${only}.weight`, rows, cols)
      const data: MatrixData[] = []
      for (const [name, count, from, storedRows = count] of parts) {
        const stored = await readMatrix(this.#source, `${name}.weight`, storedRows, cols)
        data.push(from === undefined ? stored : takeRows(stored, storedRows, count, from))
      }
      return concatRows(data)
    })
  }

  /** The parts' biases in one vector; undefined where there are none. */
  async bias(isPresent: boolean, parts: readonly Part[]): Promise<Vector | undefined> {
    if (!isPresent) return undefined
    const values = new Float32Array(parts.reduce((sum, [, length]) => sum + length, 0))
    let at = 0
    for (const [name, length, from = (row: number) => row, stored = length] of parts) {
      const biases = await this.#weights.vector(`${name}.bias`, stored)
      for (let row = 0; row < length; row++) values[at + row] = biases[from(row)]!
      at += length
    }
    return this.#backend.loadVector(`${parts[0]?.[0] ?? ''}.bias`, values)
  }

  async norm(name: string, length: number): Promise<Norm> {
    const values = await this.#weights.vector(`${name}.weight`, length)
    const { eps, addsOne } = this.#norms
    return { weight: this.#backend.loadVector(name, addsOne ? values.map((value) => value + 1) : values), eps }
  }

  /** Whether the model has a tensor of this name. */
  has(name: string): boolean {
    return this.#source.tensors.has(name)
  }

  /** A tensor's values, in the order stored. `map`: what each becomes. */
  async vector(name: string, length: number, map = (value: number) => value): Promise<Vector> {
    const values = await this.#weights.vector(name, length)
    return this.#backend.loadVector(name, values.map(map))
  }

  /** The step buffer of this name and width, shared by all layers that ask for it. */
  activation(label: string, cols: number): Activation {
    const key = `${label} ${cols}`
    const activation = this.#activations.get(key) ?? this.#backend.createActivation(label, cols)
    this.#activations.set(key, activation)
    return activation
  }
}

/** Checks that the tensors of a linear layer are there with their shapes. Throws ModelError. */
export function expectLinear(source: WeightSource, parts: readonly Part[], cols: number, hasBias: boolean): void {
  for (const [name, count, , rows = count] of parts) {
    expectTensor(source, `${name}.weight`, [rows, cols])
    if (hasBias) expectTensor(source, `${name}.bias`, [rows])
  }
}
