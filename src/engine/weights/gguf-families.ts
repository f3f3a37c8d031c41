/** The families of GGUF files as data: the model family that each architecture's name stands for, and what its converter changed. */
import type { ExpertNames } from '../runner/expert-families.ts'
import type { LayerNames } from '../runner/family.ts'
import { GEMMA3N_TENSORS, GEMMA4_TENSORS } from './gguf-gemma.ts'
import { GATED_DELTA, MAMBA2, SHORT_CONVOLUTION } from './gguf-states.ts'

/** How files of one `general.architecture` relate to a model family. */
export interface GgufFamily {
  /** Key of FAMILIES. */
  readonly architecture: string
  /** The architecture of files with experts, where it differs. */
  readonly withExperts?: string
  /** The architecture of files with a sliding window, where it differs. */
  readonly withWindow?: string
  /** The converter reordered the rows of q and k for rotations that pair neighbouring dims. */
  readonly permutesQk?: boolean
  /** Names of the tensors of layers without attention, by their names inside `blk.N.`. */
  readonly stateNames?: Readonly<Record<string, string>>
  /** Names of tensors that only this family has, by their names in the file (gguf-gemma.ts). */
  readonly tensors?: Readonly<Record<string, string>>
  /** Names that replace the model family's for GGUF files. */
  readonly names?: Partial<LayerNames>
  readonly expertNames?: Partial<ExpertNames>
  /** Fields of config.json that the files lack. */
  readonly config?: Readonly<Record<string, unknown>>
  /** Fields of rope_parameters that the files lack. */
  readonly rope?: Readonly<Record<string, unknown>>
  /** The converter reordered value heads (gguf-states.ts). */
  readonly tilesKeyHeads?: boolean
}

const BIDIRECTIONAL = { use_bidirectional_attention: true }

/** By `general.architecture`. Files of OLMo 3 are named olmo2 and have a window, files of Mixtral are named llama and have experts. */
export const GGUF_FAMILIES: ReadonlyMap<string, GgufFamily> = new Map<string, GgufFamily>([
  ['llama', { architecture: 'LlamaForCausalLM', withExperts: 'MixtralForCausalLM', permutesQk: true }],
  ['qwen2', { architecture: 'Qwen2ForCausalLM' }],
  ['qwen3', { architecture: 'Qwen3ForCausalLM' }],
  ['smollm3', { architecture: 'SmolLM3ForCausalLM', permutesQk: true }],
  ['gemma', { architecture: 'GemmaForCausalLM' }],
  ['gemma2', { architecture: 'Gemma2ForCausalLM' }],
  ['gemma3', { architecture: 'Gemma3ForCausalLM' }],
  [
    'gemma3n',
    { architecture: 'Gemma3nForCausalLM', tensors: GEMMA3N_TENSORS, config: { final_logit_softcapping: 30 } },
  ],
  ['gemma4', { architecture: 'Gemma4ForCausalLM', tensors: GEMMA4_TENSORS }],
  ['gemma-embedding', { architecture: 'Gemma3ForCausalLM', config: BIDIRECTIONAL }],
  ['eurobert', { architecture: 'LlamaForCausalLM', config: BIDIRECTIONAL }],
  ['phi3', { architecture: 'Phi3ForCausalLM' }],
  ['olmo2', { architecture: 'Olmo2ForCausalLM', withWindow: 'Olmo3ForCausalLM' }],
  ['granite', { architecture: 'GraniteForCausalLM', permutesQk: true }],
  ['mistral3', { architecture: 'Ministral3ForCausalLM', permutesQk: true }],
  ['glm4', { architecture: 'Glm4ForCausalLM' }],
  ['exaone4', { architecture: 'Exaone4ForCausalLM' }],
  ['ernie4_5', { architecture: 'Ernie4_5ForCausalLM' }],
  ['seed_oss', { architecture: 'SeedOssForCausalLM' }],
  ['arcee', { architecture: 'ArceeForCausalLM', permutesQk: true }],
  ['apertus', { architecture: 'ApertusForCausalLM' }],
  ['hunyuan-dense', { architecture: 'HunYuanDenseV1ForCausalLM' }],
  ['qwen3moe', { architecture: 'Qwen3MoeForCausalLM', config: { norm_topk_prob: true } }],
  ['qwen2moe', { architecture: 'Qwen2MoeForCausalLM' }],
  ['minimax-m2', { architecture: 'MiniMaxM2ForCausalLM' }],
  ['olmoe', { architecture: 'OlmoeForCausalLM' }],
  ['granitemoe', { architecture: 'GraniteMoeForCausalLM', permutesQk: true }],
  // Trained without rounding YaRN's borders to whole dims.
  ['gpt-oss', { architecture: 'GptOssForCausalLM', rope: { truncate: false } }],
  ['ernie4_5-moe', { architecture: 'Ernie4_5_MoeForCausalLM' }],
  ['glm4moe', { architecture: 'Glm4MoeForCausalLM' }],
  ['lfm2', { architecture: 'Lfm2ForCausalLM', stateNames: SHORT_CONVOLUTION }],
  ['qwen35', { architecture: 'Qwen3_5ForCausalLM', stateNames: GATED_DELTA, tilesKeyHeads: true }],
  ['qwen35moe', { architecture: 'Qwen3_5MoeForCausalLM', stateNames: GATED_DELTA, tilesKeyHeads: true }],
  ['qwen3next', { architecture: 'Qwen3NextForCausalLM', stateNames: GATED_DELTA }],
  ['lfm2moe', { architecture: 'Lfm2MoeForCausalLM', stateNames: SHORT_CONVOLUTION }],
  [
    'granitehybrid',
    {
      architecture: 'GraniteMoeHybridForCausalLM',
      permutesQk: true,
      stateNames: MAMBA2,
      names: { gateUp: ['shared_mlp.gate_proj', 'shared_mlp.up_proj'] },
      expertNames: { sharedGateUp: ['shared_mlp.gate_proj', 'shared_mlp.up_proj'] },
    },
  ],
])
