/** Reads from config.json what attention is like in each layer: windows, rotary embedding, head sizes, shared K and V. */
import type { ConfigReader } from '../config-reader.ts'
import type { AttentionSpec } from '../decoder-spec.ts'
import type { Family } from '../family.ts'

interface Heads {
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
}

/** The attention of every layer, if it is not another mixer (config.ts). @throws ModelError */
export function attentionsOf(
  config: ConfigReader,
  family: Family,
  numLayers: number,
  heads: Heads,
  isBidirectional: boolean,
): AttentionSpec[] {
  // A bidirectional model's sliding_window counts both sides. Here a window counts one side and the token itself.
  const windows = windowsOf(config, family, numLayers).map((window) =>
    window !== null && isBidirectional ? Math.floor(window / 2) + 1 : window,
  )
  const hasRope = ropeLayersOf(config, family, windows)
  const isGated = family.gatesAttention && config.flag('attn_output_gate', true)
  return kvSpecsOf(config, family, windows, heads).map((kv, i) => {
    const window = windows[i] ?? null
    const rope = hasRope[i] === true ? (family.localTheta !== null && window !== null ? 1 : 0) : null
    return { kind: 'attention', ...kv, rope, window, isGated, hasSinks: family.hasSinks }
  })
}

function windowsOf(config: ConfigReader, family: Family, numLayers: number): (number | null)[] {
  const none = Array.from({ length: numLayers }, () => null)
  const { windows } = family
  if (windows.kind === 'never' && family.nope !== 'listed') return none
  if ((windows.kind === 'upper' || family.nope === 'listed') && !config.flag('use_sliding_window', false)) return none
  const window = config.raw('sliding_window') === null ? null : config.size('sliding_window')
  if (window === null || windows.kind === 'always') return none.map(() => window)
  const types = config.list('layer_types', numLayers)
  if (types !== null) {
    return none.map((_, i) => {
      if (types[i] !== 'sliding_attention' && types[i] !== 'full_attention')
        config.fail('layer_types', 'a list of sliding_attention and full_attention')
      return types[i] === 'sliding_attention' ? window : null
    })
  }
  if (windows.kind === 'listed') return none.map(() => window)
  if (windows.kind === 'upper') {
    const first = config.number('max_window_layers', 0)
    return none.map((_, i) => (i >= first ? window : null))
  }
  if (windows.kind === 'pattern') {
    const letters = config.raw('sliding_window_pattern')
    // EXAONE 4's first configs: a repeated pattern with one letter per layer, where L is a layer with a window.
    if (typeof letters === 'string' && /^[LG]+$/.test(letters))
      return none.map((_, i) => (letters[i % letters.length] === 'L' ? window : null))
    const period = config.size('sliding_window_pattern', windows.period)
    return none.map((_, i) => ((i + 1) % period === 0 ? null : window))
  }
  return none.map((_, i) => (isListedWithRope(config, i, numLayers) ? null : window))
}

/** Whether no_rope_layers gives a layer a rotary embedding. */
function isListedWithRope(config: ConfigReader, layer: number, numLayers: number): boolean {
  const list = config.list('no_rope_layers', numLayers)
  // Despite the list's name, 1 means that the layer has a rotary embedding.
  return list !== null ? list[layer] !== 0 : (layer + 1) % config.size('no_rope_layer_interval', 4) !== 0
}

/** Which layers have a rotary embedding. */
function ropeLayersOf(config: ConfigReader, { nope }: Family, windows: readonly (number | null)[]): boolean[] {
  switch (nope) {
    case 'none':
      return windows.map(() => true)
    case 'listed':
      return windows.map((_, i) => isListedWithRope(config, i, windows.length))
    case 'global':
      return windows.map((window) => window !== null || windows.every((other) => other === null))
    case 'named':
      return windows.map(() => config.raw('position_embedding_type') === 'rope')
    default:
      throw new Error(`unknown rule ${String(nope satisfies never)}`)
  }
}

/** The fields of an attention layer that decide what it keeps of a sequence. */
type KvSpec = Pick<AttentionSpec, 'numKvHeads' | 'headDim' | 'sharesWith' | 'hasVNorm' | 'isValueKey'>

/**
 * One entry per layer. Layers without a window may have other head sizes and no v_proj. Each of the last num_kv_shared_layers layers reads K and V of
 * the last unshared layer of its own kind, with or without a window.
 * @param windows each layer's window in tokens; null: the whole context
 */
function kvSpecsOf(
  config: ConfigReader,
  family: Family,
  windows: readonly (number | null)[],
  { numHeads, numKvHeads, headDim }: Heads,
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
