/** What mixes the tokens of a sequence in a layer: its description, its tensors, its ops. A kind is a file of this folder. */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, Norm, RopeTable, StateShape } from '../../../kernels/ops.ts'
import type { WeightSource } from '../../weights/source.ts'
import type { Parameters } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import { type AttentionSpec, expectAttention, loadAttention } from './attention.ts'
import { expectGatedDelta, type GatedDeltaSpec, loadGatedDelta } from './gated-delta.ts'
import { expectMamba2, loadMamba2, type Mamba2Spec } from './mamba2.ts'
import { expectShortConvolution, loadShortConvolution, type ShortConvolutionSpec } from './short-convolution.ts'

export type MixerSpec = AttentionSpec | ShortConvolutionSpec | GatedDeltaSpec | Mamba2Spec

/** A layer's loaded mixer. */
export interface Mixer {
  /**
   * Adds the mixer of `hidden` to it, or leaves it in `out` where that is not `hidden`.
   * @param norm of the input; undefined: there is none
   */
  record(hidden: Activation, norm: Norm | undefined, out: Activation): void
}

/** What mixers are loaded with. */
export interface MixerParts {
  readonly backend: Backend
  readonly parameters: Parameters
  readonly spec: DecoderSpec
  readonly ropes: readonly RopeTable[]
}

/** Where a layer's memory of the sequences is: its index among the layers with K and V, or among those with a state. */
export interface MixerPlace {
  /** Prefix of the layer's tensors. */
  readonly base: string
  readonly memory: number
}

/** What a mixer keeps of a sequence beside K and V; null: nothing. */
export function stateShapeOf(mixer: MixerSpec, { hiddenSize }: DecoderSpec): StateShape | null {
  switch (mixer.kind) {
    case 'attention':
      return null
    case 'shortConvolution':
      return { channels: hiddenSize, kernel: mixer.kernel, heads: 0, valueDim: 0, keyDim: 0 }
    case 'gatedDelta': {
      const { kernel, numKeyHeads, numValueHeads, keyDim, valueDim } = mixer
      const channels = 2 * numKeyHeads * keyDim + numValueHeads * valueDim
      return { channels, kernel, heads: numValueHeads, valueDim, keyDim }
    }
    case 'mamba2': {
      const { kernel, numHeads, headDim, numGroups, stateDim } = mixer
      const channels = numHeads * headDim + 2 * numGroups * stateDim
      return { channels, kernel, heads: numHeads, valueDim: headDim, keyDim: stateDim }
    }
    default:
      throw new Error(`unknown mixer ${JSON.stringify(mixer satisfies never)}`)
  }
}

/** Checks the tensors of layer `base`'s mixer. Throws ModelError. */
export function expectMixer(source: WeightSource, spec: DecoderSpec, mixer: MixerSpec, base: string): void {
  switch (mixer.kind) {
    case 'attention':
      return expectAttention(source, spec, mixer, base)
    case 'shortConvolution':
      return expectShortConvolution(source, spec, mixer, base)
    case 'gatedDelta':
      return expectGatedDelta(source, spec, mixer, base)
    case 'mamba2':
      return expectMamba2(source, spec, mixer, base)
    default:
      throw new Error(`unknown mixer ${JSON.stringify(mixer satisfies never)}`)
  }
}

/** Loads a layer's mixer. */
export async function loadMixer(parts: MixerParts, mixer: MixerSpec, place: MixerPlace): Promise<Mixer> {
  switch (mixer.kind) {
    case 'attention':
      return loadAttention(parts, mixer, place)
    case 'shortConvolution':
      return loadShortConvolution(parts, mixer, place)
    case 'gatedDelta':
      return loadGatedDelta(parts, mixer, place)
    case 'mamba2':
      return loadMamba2(parts, mixer, place)
    default:
      throw new Error(`unknown mixer ${JSON.stringify(mixer satisfies never)}`)
  }
}
