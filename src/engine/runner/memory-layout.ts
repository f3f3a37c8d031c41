/** What the layers of a decoder keep of a sequence between steps: the shapes of the KV pool and of the pool of states. */
import type { KvLayout, KvShape, StateLayout, StateShape } from '../../kernels/ops.ts'
import type { DecoderSpec, MixerSpec } from './decoder-spec.ts'

/** The KV pool's layers, and for each layer of the model the index of the one it uses; -1 where it has no attention. */
export function kvPlaces(
  { layers }: DecoderSpec,
  isSinglePass: boolean,
): { readonly shapes: readonly KvShape[]; readonly places: readonly number[] } {
  const shared = new Set(layers.map(({ mixer }) => (mixer.kind === 'attention' ? mixer.sharesWith : null)))
  const shapes: KvShape[] = []
  const rooms = new Map<string, number>()
  const places: number[] = []
  for (const [index, { mixer }] of layers.entries()) {
    if (mixer.kind !== 'attention') places.push(-1)
    else if (mixer.sharesWith !== null) places.push(places[mixer.sharesWith]!)
    else {
      const { numKvHeads, headDim } = mixer
      // No later layer or step reads this layer's K and V: layers of one shape can use the same room.
      const room = isSinglePass && !shared.has(index) ? `${numKvHeads} x ${headDim}` : `layer ${index}`
      const place = rooms.get(room) ?? shapes.push({ numKvHeads, headDim }) - 1
      rooms.set(room, place)
      places.push(place)
    }
  }
  return { shapes, places }
}

/** The KV pool's shape for `numBlocks` blocks. @param isSinglePass as for `loadDecoder` */
export function kvLayout(spec: DecoderSpec, numBlocks: number, blockSize: number, isSinglePass = false): KvLayout {
  return { numBlocks, blockSize, layers: kvPlaces(spec, isSinglePass).shapes }
}

/** The shape of the pool of states for `numSlots` sequences; null: no layer keeps a state. */
export function stateLayout(spec: DecoderSpec, numSlots: number): StateLayout | null {
  const shapes = spec.layers.flatMap(({ mixer }) => stateShapeOf(mixer, spec) ?? [])
  return shapes.length === 0 ? null : { numSlots, layers: shapes }
}

/** What a mixer keeps of a sequence beside K and V; null: nothing. */
function stateShapeOf(mixer: MixerSpec, { hiddenSize }: DecoderSpec): StateShape | null {
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
