/** Which module loads a layer's mixer and its MLP: each kind is a file in mixers/ or mlps/. */
import type { MixerSpec, MlpSpec } from './decoder-spec.ts'
import type { LayerParts, Mixer, MixerPlace, Mlp } from './layer-parts.ts'
import { loadAttention } from './mixers/attention.ts'
import { loadGatedDelta } from './mixers/gated-delta.ts'
import { loadMamba2 } from './mixers/mamba2.ts'
import { loadShortConvolution } from './mixers/short-convolution.ts'
import { loadDense } from './mlps/dense.ts'
import { loadExperts } from './mlps/experts.ts'
import { loadParallel } from './mlps/parallel.ts'
import { loadSparse } from './mlps/sparse.ts'

/** Loads a layer's mixer. @throws ModelError */
export async function loadMixer(parts: LayerParts, mixer: MixerSpec, place: MixerPlace): Promise<Mixer> {
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

/** Loads the MLP of the layer whose tensors begin with `base`. @throws ModelError */
export async function loadMlp(parts: LayerParts, mlp: MlpSpec, base: string): Promise<Mlp> {
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
