/** Which layers of a config.json have no attention, and what they have instead. */
import type { ConfigReader } from '../config-reader.ts'
import type { Family } from '../families.ts'
import type { MixerSpec } from './mixer.ts'

const ATTENTION = new Set(['attention', 'full_attention', 'sliding_attention'])
/** A layer with a state of its own, by the names that the families give it. */
const STATE = new Set(['conv', 'linear_attention', 'mamba'])

/** For each layer null, where it has attention, or its mixer. */
export function stateMixersOf(config: ConfigReader, family: Family, numLayers: number): (MixerSpec | null)[] {
  const mixer = stateMixerOf(config, family)
  return layerTypesOf(config, family, numLayers).map((type) => {
    if (ATTENTION.has(type)) return null
    if (mixer === null) config.fail('layer_types', 'attention in every layer')
    return mixer
  })
}

function layerTypesOf(config: ConfigReader, family: Family, numLayers: number): readonly string[] {
  const known = (type: unknown): type is string => typeof type === 'string' && (ATTENTION.has(type) || STATE.has(type))
  const types = config.list('layer_types', numLayers) ?? config.list('layers_block_type', numLayers)
  if (types !== null) {
    const found = types.slice(0, numLayers)
    if (!found.every(known)) config.fail('layer_types', `a list of names among ${[...ATTENTION, ...STATE].join(', ')}`)
    return found
  }
  const withAttention = (hasAttention: (layer: number) => boolean): string[] =>
    Array.from({ length: numLayers }, (_, layer) => (hasAttention(layer) ? 'attention' : 'linear_attention'))
  switch (family.mixer) {
    case 'none':
      return withAttention(() => true)
    case 'shortConvolution': {
      const listed = config.list('full_attn_idxs', 0)
      return withAttention((layer) => listed === null || listed.includes(layer))
    }
    default:
      throw new Error(`unknown mixer ${String(family.mixer satisfies never)}`)
  }
}

function stateMixerOf(config: ConfigReader, family: Family): MixerSpec | null {
  switch (family.mixer) {
    case 'none':
      return null
    case 'shortConvolution':
      return {
        kind: 'shortConvolution',
        kernel: config.size('conv_L_cache', 3),
        hasBias: config.flag('conv_bias', false),
      }
    default:
      throw new Error(`unknown mixer ${String(family.mixer satisfies never)}`)
  }
}
