/** What follows the mixer in a layer: its description, its tensors, its ops. A kind is a file of this folder. */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation } from '../../../kernels/ops.ts'
import type { WeightSource } from '../../weights/source.ts'
import type { Parameters } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import { type DenseMlpSpec, expectDense, loadDense } from './dense.ts'
import { expectExperts, type ExpertsSpec, loadExperts } from './experts.ts'
import { expectParallel, loadParallel, type ParallelMlpSpec } from './parallel.ts'
import { expectSparse, loadSparse, type SparseMlpSpec } from './sparse.ts'

export type MlpSpec = DenseMlpSpec | ExpertsSpec | SparseMlpSpec | ParallelMlpSpec

/** A layer's loaded MLP. */
export interface Mlp {
  /**
   * Adds the MLP of `hidden` to it. `branch`: room for an output that is normalised before it is added. `scale` multiplies the sum; it is 1 where
   * outputs are not normalised.
   */
  record(hidden: Activation, branch: Activation, scale: number): void
}

/** What MLPs are loaded with. */
export interface MlpParts {
  readonly backend: Backend
  readonly parameters: Parameters
  readonly spec: DecoderSpec
}

/** Checks the tensors of layer `base`'s MLP. Throws ModelError. */
export function expectMlp(source: WeightSource, spec: DecoderSpec, mlp: MlpSpec, base: string): void {
  switch (mlp.kind) {
    case 'dense':
      return expectDense(source, spec, mlp, base)
    case 'experts':
      return expectExperts(source, spec, mlp, base)
    case 'sparse':
      return expectSparse(source, spec, mlp, base)
    case 'parallel':
      return expectParallel(source, spec, mlp, base)
    default:
      throw new Error(`unknown MLP ${JSON.stringify(mlp satisfies never)}`)
  }
}

/** Loads the MLP of layer `base`. */
export async function loadMlp(parts: MlpParts, mlp: MlpSpec, base: string): Promise<Mlp> {
  switch (mlp.kind) {
    case 'dense':
      return loadDense(parts, mlp, base)
    case 'experts':
      return loadExperts(parts, mlp, base)
    case 'sparse':
      return loadSparse(parts, mlp, base)
    case 'parallel':
      return loadParallel(parts, mlp, base)
    default:
      throw new Error(`unknown MLP ${JSON.stringify(mlp satisfies never)}`)
  }
}
