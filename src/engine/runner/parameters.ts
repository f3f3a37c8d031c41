/** Where the parts of a model get their matrices, vectors and step buffers from: named tensors of a checkpoint, brought onto a backend. */
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
import type { WeightLoader } from '../weights/weight-loader.ts'
import {
  concatRows,
  openMatrix,
  readMatrix,
  sizeOf,
  takeRows,
  transpose,
  type WeightSource,
} from '../weights/source.ts'

/**
 * A tensor that gives `rows` rows to a matrix. `from` maps each of these rows to a row of the tensor; absent: they are in the tensor's order.
 * `stored` is the number of the tensor's rows where it has more than the part takes.
 */
export type Part = readonly [name: string, rows: number, from?: ((row: number) => number) | undefined, stored?: number]

/**
 * Rows that a tensor gives to every expert's matrix. In `name`, * stands for the number of the expert. Checkpoints with one stacked tensor
 * [experts, rows, cols] have it under the name without `.*`.
 */
export interface ExpertPart {
  readonly name: string
  readonly rows: number
  readonly from?: ((row: number) => number) | undefined
  /** A parameter that is not named `.weight` is stored as [experts, cols, rows]. */
  readonly transposes?: boolean
}

/** The tensor with a part's rows of all experts, or of the first expert where each has a tensor of its own; null: there is neither. */
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

/** The tensor with a part's biases of all experts, or the name to ask for where there is none. */
export function expertBiasName(source: WeightSource, { name }: ExpertPart): string {
  const stacked = name.replace('.*', '')
  const candidates = [`${stacked}.bias`, `${stacked}_bias`]
  return candidates.find((candidate) => source.tensors.has(candidate)) ?? `${stacked}.bias`
}

/** What the parts of a model take their tensors and buffers from. @throws ModelError naming a tensor that is missing or has another shape */
export interface Parameters {
  readonly source: WeightSource
  has(name: string): boolean
  /** One matrix of the parts' rows, one part below the other. With adapters, gate and up rows are not interleaved (adapted-backend.ts). */
  matrix(parts: readonly Part[], cols: number, use?: MatrixUse): Promise<Matrix>
  /** The parts' biases in one vector; undefined unless `isPresent`. */
  bias(isPresent: boolean, parts: readonly Part[]): Promise<Vector | undefined>
  /** Every expert's matrix of the parts' rows. */
  experts(
    parts: readonly ExpertPart[],
    numExperts: number,
    cols: number,
    use?: { readonly glu?: boolean },
  ): Promise<ExpertMatrix>
  /** The parts' biases of all experts in one vector [numExperts, rows]. */
  expertBias(parts: readonly ExpertPart[], numExperts: number): Promise<Vector>
  /** The norm whose weight is `name.weight`. */
  norm(name: string, length: number): Promise<Norm>
  /** The values of a tensor of this shape in the order stored, each passed through `map`. Dimensions of size 1 do not count. */
  vector(name: string, shape: readonly number[], map?: (value: number) => number): Promise<Vector>
  /** The only value of a tensor, on the host. */
  scalar(name: string): Promise<number>
  /** The routing of this shape. All layers that ask for the same shape share it. */
  routing(shape: RoutingShape): Routing
  /** The step buffer of this name and width. All layers that ask for the same one share it. */
  activation(label: string, cols: number): Activation
}

/** How norms of a family are stored and computed. */
interface NormRule {
  readonly eps: number
  /** Stored as w where 1 + w is meant. */
  readonly addsOne: boolean
}

/** What adapters add to the matrices of a model. */
export interface Updates {
  /** Each adapter's update of the matrix made of `parts`; null: no adapter changes it. @throws ModelError */
  updateOf(parts: readonly Part[], cols: number): Promise<readonly (readonly LowRankPart[])[] | null>
}

/** Loads tensors onto a backend. */
export class BackendParameters implements Parameters {
  readonly source: WeightSource
  readonly #backend: Backend
  readonly #weights: WeightLoader
  readonly #norms: NormRule
  readonly #updates: Updates | null
  readonly #lowRanks = new Map<Matrix, LowRank>()
  readonly #activations = new Map<string, Activation>()
  readonly #routings = new Map<string, Routing>()

  /**
   * @param weights gives the matrices: from the source, or as an earlier start packed them
   * @param updates null: the model has no adapters
   */
  constructor(
    backend: Backend,
    source: WeightSource,
    weights: WeightLoader,
    norms: NormRule,
    updates: Updates | null = null,
  ) {
    this.source = source
    this.#backend = backend
    this.#weights = weights
    this.#norms = norms
    this.#updates = updates
  }

  /** The adapters' updates of a matrix; null: there are none. */
  lowRankOf(matrix: Matrix): LowRank | null {
    return this.#lowRanks.get(matrix) ?? null
  }

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
      if (parts.length === 1 && order === undefined) return openMatrix(this.source, `${only}.weight`, rows, cols)
      const data: MatrixData[] = []
      for (const [name, count, from, storedRows = count] of parts) {
        const stored = await readMatrix(this.source, `${name}.weight`, storedRows, cols)
        data.push(from === undefined ? stored : takeRows(stored, storedRows, count, from))
      }
      return concatRows(data)
    })
  }

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
    const found = expertTensor(this.source, part)
    const own = `${name.replace('*', String(expert))}.weight`
    if (found === null || !found.isStacked) return readMatrix(this.source, own, rows, cols)
    const slice = await this.source.slice(found.name, expert)
    const stored = found.isTransposed ? transpose(slice, cols, rows) : slice
    return from === undefined ? stored : takeRows(stored, rows, rows, from)
  }

  async expertBias(parts: readonly ExpertPart[], numExperts: number): Promise<Vector> {
    const rows = parts.reduce((sum, part) => sum + part.rows, 0)
    const values = new Float32Array(numExperts * rows)
    let first = 0
    for (const part of parts) {
      const { rows: length, from = (row: number) => row } = part
      const biases = await this.#weights.vector(expertBiasName(this.source, part), numExperts * length)
      for (let expert = 0; expert < numExperts; expert++) {
        for (let row = 0; row < length; row++)
          values[expert * rows + first + row] = biases[expert * length + from(row)]!
      }
      first += length
    }
    return this.#backend.loadVector(`${parts[0]?.name ?? ''} bias`, values)
  }

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

  has(name: string): boolean {
    return this.source.tensors.has(name)
  }

  async vector(name: string, shape: readonly number[], map = (value: number) => value): Promise<Vector> {
    const values = await this.#weights.vector(name, sizeOf(shape))
    return this.#backend.loadVector(name, values.map(map))
  }

  async scalar(name: string): Promise<number> {
    return (await this.#weights.vector(name, 1))[0]!
  }

  activation(label: string, cols: number): Activation {
    const key = `${label} ${cols}`
    const activation = this.#activations.get(key) ?? this.#backend.createActivation(label, cols)
    this.#activations.set(key, activation)
    return activation
  }
}
