/** Reads from config.json which MLP each layer has. */
import type { Activated } from '../../../kernels/ops.ts'
import { erf } from '../../../kernels/reference/arithmetic.ts'
import type { ConfigReader } from '../config-reader.ts'
import type { DenseMlpSpec, ExpertsSpec, MlpSpec, ParallelMlpSpec, SparseMlpSpec } from '../decoder-spec.ts'
import type { ExpertsFamily } from '../expert-families.ts'
import type { Family } from '../family.ts'

const GATED: Readonly<Record<string, Activated>> = { silu: 'silu', gelu_pytorch_tanh: 'gelu_tanh' }
const PLAIN: Readonly<Record<string, DenseMlpSpec['activation']>> = {
  relu2: 'relu2',
  xielu: { kind: 'xielu', stored: null },
}

interface Layer {
  readonly index: number
  /** It reads K and V of another layer. */
  readonly sharesKv: boolean
}

/** The MLP of each layer. @param sharesKv for each layer, whether it reads K and V of another layer */
export function mlpsOf(
  config: ConfigReader,
  family: Family,
  sharesKv: readonly boolean[],
  hasBias: boolean,
): MlpSpec[] {
  const { experts } = family
  if (family.hasParallelExperts && config.flag('enable_moe_block', false)) {
    const spec = parallelOf(config)
    return sharesKv.map(() => spec)
  }
  const layers = sharesKv.map((shares, index): Layer => ({ index, sharesKv: shares }))
  if (experts === null) {
    // Reported here, because the error would otherwise be about missing tensors.
    if (config.number('num_local_experts', 0) > 0)
      config.fail('num_local_experts', '0: this family is not served with experts')
    return layers.map((layer) => sparseOf(config, family, layer) ?? denseOf(config, family, hasBias, layer))
  }
  const count = config.raw(experts.countField) ?? config.raw('num_local_experts')
  const hasNone = experts.isOptional && (count ?? 0) === 0
  const hasExperts = layers.map(({ index }) => !hasNone && isWithExperts(config, experts, index, layers.length))
  const spec = hasExperts.includes(true) ? expertsOf(config, experts) : null
  if (spec !== null && spec.sharedWidth !== null && hasBias && typeof family.mlpBias === 'string')
    config.fail(family.mlpBias, 'false, with shared experts')
  return layers.map((layer) =>
    spec !== null && hasExperts[layer.index] === true ? spec : denseOf(config, family, hasBias, layer),
  )
}

function denseOf(config: ConfigReader, family: Family, hasBias: boolean, layer: Layer): DenseMlpSpec {
  const isGated = !family.hasPlainMlp
  const known = isGated ? GATED : PLAIN
  const name = config.raw('hidden_activation') ?? config.raw('hidden_act') ?? family.activation
  const activation = typeof name === 'string' && Object.hasOwn(known, name) ? known[name] : undefined
  if (activation === undefined) config.fail('hidden_act', Object.keys(known).join(' or '))
  const stored = typeof activation === 'object' ? storedXielu(config, layer.index) : null
  return {
    kind: 'dense',
    width: widthOf(config, family, layer),
    isGated,
    activation: stored === null ? activation : { kind: 'xielu', stored },
    hasBias,
  }
}

/** xIELU's parameters in the metadata of a GGUF file, where each is a list with one number per layer; null: they are tensors. */
function storedXielu(config: ConfigReader, layer: number): { alphaP: number; alphaN: number; beta: number } | null {
  if (config.raw('xielu_alpha_p') === null) return null
  const [alphaP, alphaN, beta] = ['xielu_alpha_p', 'xielu_alpha_n', 'xielu_beta'].map((key) => {
    const value = config.list(key, layer + 1)?.[layer]
    return typeof value === 'number' ? value : config.fail(key, 'a list of numbers')
  }) as [number, number, number]
  return { alphaP, alphaN, beta }
}

function parallelOf(config: ConfigReader): ParallelMlpSpec {
  const numExperts = config.size('num_experts')
  const topK = config.size('top_k_experts')
  if (topK > numExperts) config.fail('top_k_experts', `at most num_experts (${numExperts})`)
  const expertWidth = config.size('moe_intermediate_size')
  return { kind: 'parallel', width: config.size('intermediate_size'), numExperts, topK, expertWidth }
}

/** The MLP of a layer that keeps only a share of its gate's values; null: the layer keeps all of them. */
function sparseOf(config: ConfigReader, family: Family, layer: Layer): SparseMlpSpec | null {
  if (!family.hasStreams) return null
  // GGUF files store the number of deviations instead of a share.
  const { index } = layer
  const stored = config.list('activation_sparsity_scale', index + 1)?.[index]
  const share = config.list('activation_sparsity_pattern', index + 1)?.[index] ?? 0
  if (typeof share !== 'number' || share < 0 || share >= 1)
    config.fail('activation_sparsity_pattern', 'a list of shares below 1')
  const deviations = typeof stored === 'number' ? stored : share === 0 ? null : normalQuantile(share)
  // Minus infinity or a very small number means that nothing is cut off.
  if (deviations === null || deviations < -10) return null
  return { kind: 'sparse', width: widthOf(config, family, layer), deviations }
}

/** The quantile `p` (0 < p < 1) of the standard normal distribution, by bisection to about 1e-15. */
function normalQuantile(p: number): number {
  let [low, high] = [-10, 10]
  for (let i = 0; i < 64; i++) {
    const middle = (low + high) / 2
    if ((1 + erf(middle / Math.SQRT2)) / 2 < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}

function widthOf(
  config: ConfigReader,
  { intermediateField, roundsMlpWidth }: Family,
  { index, sharesKv }: Layer,
): number {
  const listed = Array.isArray(config.raw(intermediateField)) ? config.list(intermediateField, index + 1) : null
  if (listed !== null) {
    const width = listed[index]
    return typeof width === 'number' && Number.isInteger(width) && width > 0
      ? width
      : config.fail(intermediateField, 'a list of positive integers')
  }
  if (sharesKv && config.flag('use_double_wide_mlp', false)) return 2 * config.size(intermediateField)
  // Older configs of LFM2 call the field block_ff_dim.
  const field = roundsMlpWidth && config.raw('block_ff_dim') !== null ? 'block_ff_dim' : intermediateField
  const width = config.size(field)
  if (!roundsMlpWidth || !config.flag('block_auto_adjust_ff_dim', true)) return width
  const multiplier = config.number('block_ffn_dim_multiplier', 1)
  const multiple = config.size('block_multiple_of', 256)
  return Math.ceil(Math.floor(multiplier * Math.floor((2 * width) / 3)) / multiple) * multiple
}

function isWithExperts(config: ConfigReader, { layers }: ExpertsFamily, layer: number, numLayers: number): boolean {
  switch (layers) {
    case 'all':
      return true
    case 'leading':
      return layer >= config.number('first_k_dense_replace', config.number('num_dense_layers', 1))
    case 'sparse':
      return (
        config.list('mlp_only_layers', 0)?.includes(layer) !== true &&
        (layer + 1) % config.size('decoder_sparse_step', 1) === 0
      )
    case 'interval': {
      const last = config.number('moe_layer_end_index', -1)
      return (
        (layer + 1) % config.size('moe_layer_interval', 1) === 0 &&
        layer >= config.number('moe_layer_start_index', 1) &&
        layer <= (last < 0 ? numLayers - 1 : last)
      )
    }
    default:
      throw new Error(`unknown rule ${String(layers satisfies never)}`)
  }
}

function expertsOf(config: ConfigReader, family: ExpertsFamily): ExpertsSpec {
  // transformers 5 writes the number of experts as num_local_experts for every family.
  const countField = config.raw(family.countField) === null ? 'num_local_experts' : family.countField
  const numExperts = config.size(countField)
  const topK = config.size(family.topKField)
  const width = config.size(family.widthField)
  if (topK > numExperts) config.fail(family.topKField, `at most ${countField} (${numExperts})`)
  const activation = config.raw('hidden_act') ?? 'silu'
  if (activation !== 'silu') config.fail('hidden_act', 'silu, with experts')
  if (family.glu === 'silu_clamped') {
    if (config.number('swiglu_limit', 7) !== 7) config.fail('swiglu_limit', '7')
    if (config.number('swiglu_alpha', 1.702) !== 1.702) config.fail('swiglu_alpha', '1.702')
  }
  if (config.raw('clip_qkv') !== null) config.fail('clip_qkv', 'null: clipped queries and keys are not served')
  const count = config.size('n_group', 1)
  const used = config.size('topk_group', 1)
  if (numExperts % count !== 0) config.fail('n_group', `a divisor of ${countField} (${numExperts})`)
  const numShared = family.sharedCountField === null ? 0 : config.number(family.sharedCountField, 0)
  const sharedWidth = family.sharedWidthField === null ? null : config.size(family.sharedWidthField)
  return {
    kind: 'experts',
    numExperts,
    topK,
    width,
    glu: family.glu,
    hasBias: family.hasBias,
    route: {
      scores: family.scores,
      groups: count > 1 ? { count, used } : null,
      normalizes: family.normalizes === 'always' || config.flag('norm_topk_prob', family.normalizes.byDefault),
      scale: config.number('routed_scaling_factor', 1),
    },
    hasChoiceBias:
      typeof family.hasChoiceBias === 'boolean' ? family.hasChoiceBias : config.flag(family.hasChoiceBias.field, true),
    sharedWidth: numShared > 0 ? numShared * width : sharedWidth,
    gatesShared: family.gatesShared,
    names: family.names,
  }
}
