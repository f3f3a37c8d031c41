/**
 * GGUF files of decoders as a weight source. Tensors get their Hugging Face names, and the metadata becomes a config.json, so that the decoder needs one
 * naming only.
 */
import { dequantize } from '../../kernels/dequantize.ts'
import { FAMILIES } from '../runner/families.ts'
import type { Family, LayerNames } from '../runner/family.ts'
import type { DecoderSpec, LayerSpec } from '../runner/decoder-spec.ts'
import { parseSpec, type SpecOptions } from '../runner/spec.ts'
import { ModelError, type ProgressListener } from '../runner/runner.ts'
import { expertConfig, expertNames } from './gguf-experts.ts'
import { GGUF_FAMILIES, type GgufFamily } from './gguf-families.ts'
import { type GgufMetadata, type GgufNaming, openGgufFile } from './gguf-file.ts'
import { gemmaConfig, withLists } from './gguf-gemma.ts'
import { isStateVector, stateConfig, tiling } from './gguf-states.ts'
import type { GgufValue } from './gguf-header.ts'
import type { TensorInfo, WeightSource } from './source.ts'

/** The family of a file; undefined: it is not known. */
function familyOf(metadata: GgufMetadata): GgufFamily | undefined {
  const family = GGUF_FAMILIES.get(metadata.architecture)
  if (family === undefined) return undefined
  const withExperts = hasExperts(metadata) ? family.withExperts : undefined
  const withWindow = metadata.own('attention.sliding_window') === undefined ? undefined : family.withWindow
  return { ...family, architecture: withExperts ?? withWindow ?? family.architecture }
}

const hasExperts = (metadata: GgufMetadata): boolean => (metadata.own('expert_count') ?? 0) !== 0

/** Names of linear layers and norms inside `blk.N.`, and their names in Hugging Face checkpoints. */
function layerNames(family: GgufFamily): Readonly<Record<string, string>> {
  const { normPlacement, experts } = hubFamily(family)
  const names = tensorNames(family)
  const [first, k = '', v = ''] = names.qkv
  const [gate, up] = names.gateUp
  return {
    attn_norm: names.inputNorm,
    ...(k === '' ? { attn_qkv: first } : { attn_q: first, attn_k: k, attn_v: v }),
    attn_output: names.output,
    attn_q_norm: names.qNorm,
    attn_k_norm: names.kNorm,
    post_attention_norm: names.attentionNorm,
    ...(normPlacement === 'post' ? {} : { ffn_norm: names.mlpNorm }),
    post_ffw_norm: names.feedForwardNorm,
    ...(up === undefined ? { ffn_up: gate } : { ffn_gate: gate, ffn_up: up }),
    ffn_down: names.down,
    ...(experts === null ? {} : expertNames(experts)),
  }
}

/** The same for tensors that checkpoints name without the ending .weight or .bias. */
function bareNames(family: GgufFamily): Readonly<Record<string, string>> {
  const { experts } = hubFamily(family)
  return {
    'attn_sinks.weight': 'self_attn.sinks',
    ...(experts === null ? {} : { 'exp_probs_b.bias': experts.names.choiceBias }),
  }
}

/** The model family of a GGUF family, with the names that its files need. */
function hubFamily({ architecture, names, expertNames: ofExperts }: GgufFamily): Family {
  const family = FAMILIES[architecture]
  if (family === undefined) throw new Error(`no family ${architecture}`)
  const { experts } = family
  return {
    ...family,
    names: { ...family.names, ...names },
    experts: experts === null ? null : { ...experts, names: { ...experts.names, ...ofExperts } },
  }
}

const tensorNames = (family: GgufFamily): LayerNames => hubFamily(family).names

const topNames = (family: GgufFamily): Readonly<Record<string, string>> => ({
  token_embd: 'model.embed_tokens',
  output_norm: `model.${tensorNames(family).finalNorm}`,
  // LFM2's name for it.
  token_embd_norm: `model.${tensorNames(family).finalNorm}`,
  output: 'lm_head',
})

function hubName(
  name: string,
  layers: Readonly<Record<string, string>>,
  top: Readonly<Record<string, string>>,
): string {
  const match = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name)
  if (match === null) return name
  const [, layer, part = '', kind = ''] = match
  const known = layer === undefined ? top : layers
  if (!Object.hasOwn(known, part)) return name
  return layer === undefined ? `${known[part]}.${kind}` : `model.layers.${layer}.${known[part]}.${kind}`
}

/** The config fields for a pattern of sliding windows: its period, or a flag per layer. */
function slidingLayers(pattern: GgufValue | null): Record<string, unknown> {
  if (!Array.isArray(pattern)) return { sliding_window_pattern: pattern }
  return {
    layer_types: pattern.map((isSliding: unknown) =>
      isSliding === 1 || isSliding === true ? 'sliding_attention' : 'full_attention',
    ),
  }
}

/** The metadata as the config.json of the model's Hugging Face form. */
function configOf(
  metadata: GgufMetadata,
  family: GgufFamily,
  tensors: ReadonlyMap<string, TensorInfo>,
  factors: RopeFactors,
): Record<string, unknown> {
  const names = new Set(tensors.keys())
  const own = (key: string): unknown => metadata.own(key)
  const hidden = own('embedding_length')
  const heads = own('attention.head_count')
  const headDim =
    own('attention.key_length') ??
    (typeof hidden === 'number' && typeof heads === 'number' ? hidden / heads : undefined)
  const rotary = own('rope.dimension_count')
  if (rotary !== undefined && typeof rotary !== 'number')
    throw new ModelError(
      `${metadata.path}: ${metadata.architecture}.rope.dimension_count should be a number, found a ${typeof rotary}`,
    )
  const scaling = own('rope.scaling.type')
  const original = own('rope.scaling.original_context_length')
  const rope: Record<string, unknown> = { rope_theta: own('rope.freq_base') }
  if (typeof rotary === 'number' && typeof headDim === 'number' && rotary !== headDim)
    rope['partial_rotary_factor'] = rotary / headDim
  if (factors.long !== null && factors.short !== null) {
    const attention = own('rope.scaling.attn_factor')
    Object.assign(rope, {
      rope_type: 'longrope',
      long_factor: factors.long,
      short_factor: factors.short,
      original_max_position_embeddings: original,
      attention_factor: attention,
    })
  } else if (scaling === 'linear' || scaling === 'yarn') {
    Object.assign(rope, {
      rope_type: scaling,
      factor: own('rope.scaling.factor'),
      original_max_position_embeddings: original,
      beta_fast: own('rope.scaling.yarn_beta_fast'),
      beta_slow: own('rope.scaling.yarn_beta_slow'),
      // Files have yarn_log_multiplier where cos and sin are not scaled.
      attention_factor: own('rope.scaling.yarn_log_multiplier') === undefined ? undefined : 1,
      llama_4_scaling_beta: own('attention.temperature_scale'),
      ...family.rope,
    })
  } else if (scaling !== undefined && scaling !== 'none') {
    rope['rope_type'] = scaling
  }
  const isGemma3 = family.architecture === 'Gemma3ForCausalLM'
  const { experts, localTheta } = hubFamily(family)
  const { layers } = metadata
  // The 27B models scale queries by hidden_size / num_heads. Files do not say so, and llama.cpp too goes by the number of layers.
  const isLargeGemma =
    (metadata.architecture === 'gemma2' && layers.length === 46) || (isGemma3 && layers.length === 62)
  const sliding = slidingLayers(metadata.get(`${metadata.architecture}.attention.sliding_window_pattern`))
  const eos = ['eos', 'eot', 'eom'].map((kind) => metadata.get(`tokenizer.ggml.${kind}_token_id`))
  const config = {
    architectures: [family.architecture],
    vocab_size: metadata.lengthOf('tokenizer.ggml.tokens') ?? own('vocab_size'),
    hidden_size: hidden,
    intermediate_size: metadata.perLayer('feed_forward_length'),
    num_hidden_layers: layers.length > 0 ? layers.length : own('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: family.tensors === undefined ? (kvHeads(metadata) ?? heads) : undefined,
    head_dim: headDim,
    max_position_embeddings: own('context_length'),
    rms_norm_eps: own('attention.layer_norm_rms_epsilon'),
    rope_parameters:
      typeof localTheta === 'number'
        ? { full_attention: rope, sliding_attention: { rope_theta: own('rope.freq_base_swa') ?? 10_000 } }
        : rope,
    ...(family.stateNames === undefined ? {} : stateConfig(metadata, family.stateNames, names)),
    sliding_window: own('attention.sliding_window'),
    ...sliding,
    use_sliding_window: own('attention.sliding_window') !== undefined,
    query_pre_attn_scalar:
      isLargeGemma && typeof hidden === 'number' && typeof heads === 'number' ? hidden / heads : undefined,
    attn_logit_softcapping: own('attn_logit_softcapping'),
    final_logit_softcapping: own('final_logit_softcapping'),
    attention_bias: names.has('model.layers.0.self_attn.q_proj.bias'),
    attention_out_bias: names.has('model.layers.0.self_attn.o_proj.bias'),
    mlp_bias: names.has('model.layers.0.mlp.up_proj.bias') || names.has('model.layers.0.mlp.gate_proj.bias'),
    use_qk_norm: names.has('model.layers.0.self_attn.q_norm.weight'),
    xielu_alpha_p: metadata.get('xielu.alpha_p'),
    xielu_alpha_n: metadata.get('xielu.alpha_n'),
    xielu_beta: metadata.get('xielu.beta'),
    ...(experts === null || !hasExperts(metadata) ? {} : expertConfig(metadata, experts, names)),
    ...(family.tensors === undefined ? {} : gemmaConfig(metadata, tensors, sliding['layer_types'])),
    use_bias: names.has('model.layers.0.self_attn.q_proj.bias'),
    embedding_multiplier: own('embedding_scale'),
    residual_multiplier: own('residual_scale'),
    attention_multiplier: own('attention.scale'),
    logits_scaling: own('logit_scale'),
    tie_word_embeddings: !names.has('lm_head.weight'),
    bos_token_id: metadata.get('tokenizer.ggml.bos_token_id'),
    eos_token_id: eos.filter((id) => id !== null),
  }
  const found = Object.entries<unknown>(config).filter(([, value]) => value !== undefined)
  return { ...family.config, ...Object.fromEntries(found) }
}

/** KV heads of the layers with attention: others have 0 in a list of them. */
function kvHeads(metadata: GgufMetadata): unknown {
  return metadata.own('attention.head_count_kv', (count) => count !== 0)
}

/** A layer with the names and the order of heads that its GGUF file has. */
function asInGguf(family: GgufFamily, layer: LayerSpec): LayerSpec {
  const { mlp } = layer
  const names = hubFamily(family).experts?.names
  const named = mlp.kind === 'experts' && names !== undefined ? { ...layer, mlp: { ...mlp, names } } : layer
  return family.tilesKeyHeads === true ? tiling(named) : named
}

interface RopeFactors {
  /** Divisors of the frequencies: llama 3's scaling, computed by the converter. */
  readonly fixed: readonly number[] | null
  readonly long: readonly number[] | null
  readonly short: readonly number[] | null
}

interface GgufModel {
  readonly source: WeightSource
  readonly metadata: GgufMetadata
  spec(options: SpecOptions): DecoderSpec
}

/** Names a family's tensors as Hugging Face checkpoints do. @param heads numbers of heads of q and k, by default from the metadata */
export function familyNaming(
  family: GgufFamily,
  metadata: GgufMetadata,
  heads: { readonly q: unknown; readonly k: unknown } = {
    q: metadata.own('attention.head_count'),
    k: family.permutesQk === true ? (kvHeads(metadata) ?? metadata.own('attention.head_count')) : null,
  },
): GgufNaming {
  const names = layerNames(family)
  const top = topNames(family)
  const bare = bareNames(family)
  return (name) => {
    const [, layer = '', part = ''] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? []
    const ownName = family.tensors?.[layer === '' ? name : part]
    if (ownName !== undefined)
      return { name: `model.${layer === '' ? '' : `layers.${layer}.`}${ownName}`, permutedHeads: null }
    const stateName = family.stateNames?.[part]
    if (stateName !== undefined) {
      const full = `model.layers.${layer}.${stateName}`
      return { name: full, permutedHeads: null, isVector: isStateVector(full) }
    }
    if (Object.hasOwn(bare, part)) return { name: `model.layers.${layer}.${bare[part]}`, permutedHeads: null }
    const which = family.permutesQk === true ? /^blk\.\d+\.attn_([qk])\.(weight|bias)$/.exec(name)?.[1] : undefined
    const headCount = which === 'q' ? heads.q : which === 'k' ? heads.k : null
    return {
      name: hubName(name, names, top),
      permutedHeads: typeof headCount === 'number' ? headCount : null,
      isRow: part === 'ffn_gate_inp_shexp.weight',
    }
  }
}

/** The family of a file. @throws ModelError for an architecture that is not served */
export function requireFamily(metadata: GgufMetadata): GgufFamily {
  const { path } = metadata
  const family = familyOf(metadata)
  const known = [...GGUF_FAMILIES.keys()].join(', ')
  if (family === undefined)
    throw new ModelError(`${path}: unknown architecture "${metadata.architecture}"; known: ${known}`)
  const takesExperts = (candidate: GgufFamily): boolean => {
    const { experts, hasParallelExperts } = hubFamily(candidate)
    return experts !== null || hasParallelExperts || candidate.withExperts !== undefined
  }
  if (hasExperts(metadata) && !takesExperts(family)) {
    const withExperts = [...GGUF_FAMILIES].filter(([, candidate]) => takesExperts(candidate))
    throw new ModelError(
      `${path}: architecture "${metadata.architecture}" is not served with experts; these are: ${withExperts.map(([name]) => name).join(', ')}`,
    )
  }
  return family
}

/** Opens the GGUF file of a decoder. @throws ModelError */
export async function openGguf(path: string, onProgress?: ProgressListener): Promise<GgufModel> {
  const naming = (metadata: GgufMetadata): GgufNaming => familyNaming(requireFamily(metadata), metadata)
  const { source: file, metadata } = await openGgufFile(path, naming, onProgress)
  const source = withLists(file)
  try {
    const family = requireFamily(metadata)
    const factorsOf = async (name: string): Promise<readonly number[] | null> =>
      source.tensors.has(name) ? [...dequantize(await source.read(name))] : null
    const factors: RopeFactors = {
      fixed: await factorsOf('rope_freqs.weight'),
      long: await factorsOf('rope_factors_long.weight'),
      short: await factorsOf('rope_factors_short.weight'),
    }
    const config = configOf(metadata, family, source.tensors, factors)
    const spec = (options: SpecOptions): DecoderSpec => {
      const parsed = parseSpec(path, config, null, options)
      const ropes = parsed.ropes.map((rope, i) => {
        // The second table is that of layers with a window, which has no scaling.
        if (factors.fixed === null || i > 0) return rope
        if (factors.fixed.length !== rope.inverseFrequencies.length || !factors.fixed.every((factor) => factor > 0)) {
          throw new ModelError(
            `${path}: rope_freqs.weight should be ${rope.inverseFrequencies.length} positive numbers, found ${factors.fixed.length}`,
          )
        }
        return {
          ...rope,
          inverseFrequencies: rope.inverseFrequencies.map((frequency, i) => frequency / (factors.fixed?.[i] ?? 1)),
        }
      })
      // The converter has added 1 to the norm weights already.
      return {
        ...parsed,
        ropes,
        normAddsOne: false,
        names: tensorNames(family),
        layers: parsed.layers.map((layer) => asInGguf(family, layer)),
      }
    }
    return { source, metadata, spec }
  } catch (error) {
    await source.close()
    throw error
  }
}
