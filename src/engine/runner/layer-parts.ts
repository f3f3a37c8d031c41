/** What the parts of a layer have in common: the ops that a mixer and an MLP record, and what they are loaded with. */
import type { Backend } from '../../kernels/backend.ts'
import type { Activation, Norm, RopeTable } from '../../kernels/ops.ts'
import type { DecoderSpec } from './decoder-spec.ts'
import type { Parameters } from './parameters.ts'

/** A layer's loaded mixer. */
export interface Mixer {
  /** What `recordOutput` reads of what `recordMemory` computed, row by row. */
  readonly between: readonly Activation[]
  /**
   * Writes what later tokens need of these rows: K and V, or states.
   * @param norm undefined: the input is not normalised
   */
  recordMemory(backend: Backend, hidden: Activation, norm: Norm | undefined): void
  /** Then adds mixer(norm(hidden)) to `hidden`, or writes it to `out` where that is another buffer. Rows that give no output may be gone by then. */
  recordOutput(backend: Backend, hidden: Activation, norm: Norm | undefined, out: Activation): void
}

/** A layer's loaded MLP. */
export interface Mlp {
  /**
   * Adds mlp(hidden) to `hidden`.
   * @param branch room for an output that is normalised before it is added; else `hidden` itself
   * @param scale multiplies the sum; 1 where outputs are not normalised
   */
  record(backend: Backend, hidden: Activation, branch: Activation, scale: number): void
}

/** What the parts of a model are loaded with. */
export interface LayerParts {
  readonly parameters: Parameters
  readonly spec: DecoderSpec
  /** By index in DecoderSpec.ropes. */
  readonly ropes: readonly RopeTable[]
}

/** Where a layer's mixer finds its tensors and what it keeps of sequences. */
export interface MixerPlace {
  /** Prefix of the layer's tensors. */
  readonly base: string
  /** Index in the KV layout's layers, or in the state layout's. */
  readonly memory: number
}
