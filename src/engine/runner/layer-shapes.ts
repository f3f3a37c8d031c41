/** How the attention of layers differs: their head sizes, and the layer whose K and V each of them reads. */
import type { ConfigReader } from './config-reader.ts'
import type { Family } from './family.ts'
import type { AttentionSpec } from './decoder-spec.ts'

/** The fields of an attention layer that decide what it keeps of a sequence. */
type KvSpec = Pick<AttentionSpec, 'numKvHeads' | 'headDim' | 'sharesWith' | 'hasVNorm' | 'isValueKey'>

/**
 * One entry per layer. Layers without a window may have other head sizes and no v_proj. Each of the last num_kv_shared_layers layers reads K and V of
 * the last unshared layer of its own kind, with or without a window.
 * @param windows each layer's window in tokens; null: the whole context
 */
export function kvSpecsOf(
  config: ConfigReader,
  family: Family,
  windows: readonly (number | null)[],
  {
    numHeads,
    numKvHeads,
    headDim,
  }: { readonly numHeads: number; readonly numKvHeads: number; readonly headDim: number },
): KvSpec[] {
  const overrides = config.object('per_layer_config') ?? {}
  const isValueKey = family.hasGlobalHeads && config.flag('attention_k_eq_v', false)
  const numShared = family.sharesKv ? config.number('num_kv_shared_layers', 0) : 0
  const firstShared = windows.length - numShared
  if (!Number.isInteger(numShared) || numShared < 0 || firstShared < 1)
    config.fail('num_kv_shared_layers', `a whole number below num_hidden_layers (${windows.length})`)
  return windows.map((window, layer): KvSpec => {
    const isGlobal = family.hasGlobalHeads && window === null
    const own = sizesOf(config, overrides[layer])
    const globalKvHeads = isValueKey ? config.optionalNumber('num_global_key_value_heads') : null
    const shape = {
      headDim: own.headDim ?? (isGlobal ? config.size('global_head_dim', 512) : headDim),
      numKvHeads: own.numKvHeads ?? (isGlobal ? globalKvHeads : null) ?? numKvHeads,
    }
    if (numHeads % shape.numKvHeads !== 0)
      config.fail('num_global_key_value_heads', `a divisor of num_attention_heads (${numHeads})`)
    const isAlike = (other: number | null): boolean => (other === null) === (window === null)
    const source = windows.slice(0, firstShared).findLastIndex(isAlike)
    const sharesWith = layer < firstShared || source < 0 ? null : source
    if (layer >= firstShared && sharesWith === null)
      config.fail('num_kv_shared_layers', 'such that a layer of each kind has K and V of its own')
    return { ...shape, sharesWith, hasVNorm: family.hasVNorm, isValueKey: isValueKey && isGlobal }
  })
}

/** The head sizes that per_layer_config gives for a layer; null: it gives none. Newer configs have this field. */
function sizesOf(
  config: ConfigReader,
  layer: unknown,
): { readonly headDim: number | null; readonly numKvHeads: number | null } {
  if (layer === undefined) return { headDim: null, numKvHeads: null }
  const { head_dim: headDim = null, num_key_value_heads: numKvHeads = null } = (layer ?? {}) as Record<string, unknown>
  const check = (value: unknown): number | null =>
    value === null || (typeof value === 'number' && Number.isInteger(value) && value > 0)
      ? value
      : config.fail('per_layer_config', 'an object of head_dim and num_key_value_heads by layer')
  return { headDim: check(headDim), numKvHeads: check(numKvHeads) }
}
