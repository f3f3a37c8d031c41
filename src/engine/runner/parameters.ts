/** Reads a model's tensors onto a backend, and checks beforehand that they are there: what every part of a layer is loaded with. */
import type { Backend, MatrixUse } from '../../kernels/backend.ts'
import type {
  Activation,
  ExpertMatrix,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  Norm,
  Routing,
  RoutingShape,
  Vector,
} from '../../kernels/ops.ts'
import type { WeightLoader } from '../weights/packed-cache.ts'
import {
  concatRows,
  expectTensor,
  openMatrix,
  readMatrix,
  takeRows,
  transpose,
  type WeightSource,
} from '../weights/source.ts'

/**
 * A tensor that gives rows to a matrix. `from`: which stored row stands at a row; absent: they stand as stored. `stored`: rows of the tensor, where
 * it has others too.
 */
export type Part = readonly [name: string, rows: number, from?: ((row: number) => number) | undefined, stored?: number]

/**
 * Rows that a tensor gives to every expert's matrix. `name`: with * for the number of the expert, where each has a tensor of its own; of a stacked tensor
 * [experts, rows, cols] it is left out.
 */
export interface ExpertPart {
  readonly name: string
  readonly rows: number
  readonly from?: ((row: number) => number) | undefined
  /** A bare parameter (no linear layer's weight) stands as [experts, cols, rows]. */
  readonly transposes?: boolean
}

/** The tensor that has a part's rows of all experts, or the first expert's where each has its own; null: there is none. */
export function expertTensor(
  source: WeightSource,
  { name, transposes = false }: ExpertPart,
): { readonly name: string; readonly isStacked: boolean; readonly isTransposed: boolean } | null {
  const stacked = name.replace('.*', '')
  const candidates = [
    { name: `${name.replace('*', '0')}.weight`, isStacked: !name.includes('*'), isTransposed: false },
    { name: `${stacked}.weight`, isStacked: true, isTransposed: false },
    { name: stacked, isStacked: true, isTransposed: transposes },
  ]
  return candidates.find((candidate) => source.tensors.has(candidate.name)) ?? null
}

/** How norms of a family are stored and computed. */
interface NormRule {
  readonly eps: number
  /** Stored as w with 1 + w meant. */
  readonly addsOne: boolean
}

/** What adapters add to the matrices of a model. */
export interface Updates {
  /** Each adapter's parts of the matrix of these parts; null: none adds to it. Throws ModelError. */
  updateOf(parts: readonly Part[], cols: number): Promise<readonly (readonly LowRankPart[])[] | null>
}

/** Loads named tensors to a backend. @throws ModelError naming a tensor that is missing or has another shape */
export class Parameters {
  readonly #backend: Backend
  readonly #source: WeightSource
  readonly #weights: WeightLoader
  readonly #norms: NormRule
  readonly #updates: Updates | null
  readonly #lowRanks = new Map<Matrix, LowRank>()
  readonly #activations = new Map<string, Activation>()
  readonly #routings = new Map<string, Routing>()

  /**
   * @param weights where matrices come from: the source, or what was packed of it at an earlier start
   * @param updates null: the model has no adapters
   */
  constructor(
    backend: Backend,
    source: WeightSource,
    weights: WeightLoader,
    norms: NormRule,
    updates: Updates | null = null,
  ) {
    this.#backend = backend
    this.#source = source
    this.#weights = weights
    this.#norms = norms
    this.#updates = updates
  }

  /** Where names are looked up. */
  get source(): WeightSource {
    return this.#source
  }

  /** What adapters add to a matrix; null: nothing. */
  lowRankOf(matrix: Matrix): LowRank | null {
    return this.#lowRanks.get(matrix) ?? null
  }

  /** One matrix of the parts' rows, one part below the other. With adapters, gate and up are not joined in it (adapted-backend.ts). */
  async matrix(parts: readonly Part[], cols: number, use: MatrixUse = {}): Promise<Matrix> {
    const rows = parts.reduce((sum, [, count]) => sum + count, 0)
    const label = parts.map(([name]) => name).join('+')
    const matrix = await this.#base(label, parts, rows, cols, this.#updates === null ? use : {})
    const update = (await this.#updates?.updateOf(parts, cols)) ?? null
    if (update !== null) this.#lowRanks.set(matrix, this.#backend.loadLowRank(label, rows, cols, update))
    return matrix
  }

  #base(label: string, parts: readonly Part[], rows: number, cols: number, use: MatrixUse): Promise<Matrix> {
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

  /** Experts' matrices of the parts' rows, read one after another. */
  async experts(
    parts: readonly ExpertPart[],
    numExperts: number,
    cols: number,
    use: { readonly glu?: boolean } = {},
  ): Promise<ExpertMatrix> {
    const rows = parts.reduce((sum, part) => sum + part.rows, 0)
    const label = parts.map(({ name }) => name).join('+')
    return this.#weights.experts(label, numExperts, rows, cols, use, async (expert) => {
      const data: MatrixData[] = []
      for (const part of parts) data.push(await this.#expertRows(part, expert, cols))
      return concatRows(data)
    })
  }

  async #expertRows(part: ExpertPart, expert: number, cols: number): Promise<MatrixData> {
    const { name, rows, from } = part
    const found = expertTensor(this.#source, part)
    const own = `${name.replace('*', String(expert))}.weight`
    if (found === null || !found.isStacked) return readMatrix(this.#source, own, rows, cols)
    const slice = await this.#source.slice(found.name, expert)
    const stored = found.isTransposed ? transpose(slice, cols, rows) : slice
    return from === undefined ? stored : takeRows(stored, rows, rows, from)
  }

  /** The parts' biases of all experts in one vector. */
  async expertBias(parts: readonly ExpertPart[], numExperts: number): Promise<Vector> {
    const rows = parts.reduce((sum, part) => sum + part.rows, 0)
    const values = new Float32Array(numExperts * rows)
    let first = 0
    for (const { name, rows: length, from = (row: number) => row } of parts) {
      const stacked = name.replace('.*', '')
      const stored = [`${stacked}.bias`, `${stacked}_bias`].find((candidate) => this.#source.tensors.has(candidate))
      const biases = await this.#weights.vector(stored ?? `${stacked}.bias`, numExperts * length)
      for (let expert = 0; expert < numExperts; expert++) {
        for (let row = 0; row < length; row++)
          values[expert * rows + first + row] = biases[expert * length + from(row)]!
      }
      first += length
    }
    return this.#backend.loadVector(`${parts[0]?.name ?? ''} bias`, values)
  }

  /** The routing of this shape, shared by all layers that ask for it. */
  routing(shape: RoutingShape): Routing {
    const key = JSON.stringify(shape)
    const routing = this.#routings.get(key) ?? this.#backend.createRouting(`routing to ${shape.numExperts}`, shape)
    this.#routings.set(key, routing)
    return routing
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

  /** The same, for the host. */
  values(name: string, length: number): Promise<Float32Array> {
    return this.#weights.vector(name, length)
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
