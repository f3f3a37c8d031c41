/** Reads from config.json which layers have no attention, and which mixer they have instead. */
import type { ConfigReader } from '../config-reader.ts'
import type { Family } from '../family.ts'
import type { MixerSpec } from '../decoder-spec.ts'

const ATTENTION = new Set(['attention', 'full_attention', 'sliding_attention'])
const MAX_KERNEL = 16
/** Names that families give to a layer that keeps a state instead of K and V. */
const STATE = new Set(['conv', 'linear_attention', 'mamba'])

/** Each layer's mixer; null: it has attention. */
export function stateMixersOf(config: ConfigReader, family: Family, numLayers: number): (MixerSpec | null)[] {
  const types = layerTypesOf(config, family, numLayers)
  if (types.every((type) => ATTENTION.has(type))) return types.map(() => null)
  const mixer = stateMixerOf(config, family)
  return types.map((type) => (ATTENTION.has(type) ? null : mixer))
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
    case 'gatedDelta': {
      const interval = config.size('full_attention_interval', 4)
      return withAttention((layer) => (layer + 1) % interval === 0)
    }
    case 'mamba2':
      return withAttention(() => false)
    default:
      throw new Error(`unknown mixer ${String(family.mixer satisfies never)}`)
  }
}

function stateMixerOf(config: ConfigReader, family: Family): MixerSpec {
  switch (family.mixer) {
    case 'none':
      return config.fail('layer_types', 'attention in every layer')
    case 'shortConvolution':
      return {
        kind: 'shortConvolution',
        kernel: kernelOf(config, 'conv_L_cache', 3),
        hasBias: config.flag('conv_bias', false),
      }
    case 'gatedDelta':
      return gatedDeltaOf(config, family)
    case 'mamba2':
      return mamba2Of(config, family)
    default:
      throw new Error(`unknown mixer ${String(family.mixer satisfies never)}`)
  }
}

function gatedDeltaOf(config: ConfigReader, family: Family): MixerSpec {
  const numKeyHeads = config.size('linear_num_key_heads')
  const numValueHeads = config.size('linear_num_value_heads')
  if (numValueHeads % numKeyHeads !== 0)
    config.fail('linear_num_value_heads', `a multiple of linear_num_key_heads (${numKeyHeads})`)
  return {
    kind: 'gatedDelta',
    kernel: kernelOf(config, 'linear_conv_kernel_dim'),
    numKeyHeads,
    numValueHeads,
    keyDim: inFours(config, 'linear_key_head_dim'),
    valueDim: inFours(config, 'linear_value_head_dim'),
    normEps: config.number(family.normEpsField, family.normEps),
    tilesKeyHeads: false,
  }
}

function mamba2Of(config: ConfigReader, family: Family): MixerSpec {
  const numHeads = config.size('mamba_n_heads')
  const width = config.size('mamba_expand', 2) * config.size('hidden_size')
  const headDim = config.raw('mamba_d_head') === 'auto' ? width / numHeads : inFours(config, 'mamba_d_head')
  if (headDim * numHeads !== width)
    config.fail('mamba_n_heads', `heads of ${headDim} that are ${width} wide together, mamba_expand times hidden_size`)
  const numGroups = config.size('mamba_n_groups', 1)
  if (numHeads % numGroups !== 0) config.fail('mamba_n_groups', `a divisor of mamba_n_heads (${numHeads})`)
  const [least, most] = config.list('time_step_limit', 2) ?? [0, null]
  // JSON has no infinity: it is read as null or as a string.
  if (least !== 0 || (typeof most === 'number' && Number.isFinite(most)))
    config.fail('time_step_limit', 'from 0 to infinity: bounded time steps are not served')
  return {
    kind: 'mamba2',
    kernel: kernelOf(config, 'mamba_d_conv'),
    hasConvBias: config.flag('mamba_conv_bias', true),
    hasBias: config.flag('mamba_proj_bias', false),
    numHeads,
    headDim,
    numGroups,
    stateDim: inFours(config, 'mamba_d_state'),
    normEps: config.number(family.normEpsField, family.normEps),
  }
}

/** The number of tokens that an output of a convolution depends on. */
function kernelOf(config: ConfigReader, key: string, fallback = 4): number {
  const kernel = config.size(key, fallback)
  if (kernel < 2 || kernel > MAX_KERNEL) config.fail(key, `from 2 to ${MAX_KERNEL}`)
  return kernel
}

/** A size that is a multiple of 4: kernels read a state's rows in vectors of four. */
function inFours(config: ConfigReader, key: string): number {
  const size = config.size(key)
  if (size % 4 !== 0) config.fail(key, 'a multiple of 4')
  return size
}
