/** The families of GGUF files as data: what the names of their architectures mean, and what their converters changed. */
import type { ExpertNames } from '../runner/expert-families.ts'
import type { LayerNames } from '../runner/family.ts'
import { GEMMA3N_TENSORS, GEMMA4_TENSORS } from './gguf-gemma.ts'
import { GATED_DELTA, MAMBA2, SHORT_CONVOLUTION } from './gguf-states.ts'

/** How ggml's name of an architecture relates to ours. */
export interface GgufFamily {
  readonly architecture: string
  /** The architecture of files that have experts, where that is another one. */
  readonly withExperts?: string
  /** The architecture of files that have a window, where that is another one. */
  readonly withWindow?: string
  /** The converter reordered the rows of q and k for rotations of neighbouring pairs; our rope rotates halves. */
  readonly permutesQk: boolean
  /** What the tensors of layers without attention are called here, by their names inside `blk.N.`; all but matrices are vectors. */
  readonly stateNames?: Readonly<Record<string, string>>
  /** Tensors that no table of all families has, by their names in the file (gguf-gemma.ts). */
  readonly tensors?: Readonly<Record<string, string>>
  /** Names that its files need and checkpoints do not. */
  readonly names?: Partial<LayerNames>
  readonly expertNames?: Partial<ExpertNames>
  /** It sees to both sides: for embedding only. */
  readonly isBidirectional?: boolean
  /** The converter reordered value heads (gguf-states.ts). */
  readonly tilesKeyHeads?: boolean
}

/** By `general.architecture`. OLMo 3 is written as OLMo 2 with a window, Mixtral as Llama with experts. */
export const GGUF_FAMILIES: ReadonlyMap<string, GgufFamily> = new Map([
  ['llama', { architecture: 'LlamaForCausalLM', withExperts: 'MixtralForCausalLM', permutesQk: true }],
  ['qwen2', { architecture: 'Qwen2ForCausalLM', permutesQk: false }],
  ['qwen3', { architecture: 'Qwen3ForCausalLM', permutesQk: false }],
  ['smollm3', { architecture: 'SmolLM3ForCausalLM', permutesQk: true }],
  ['gemma', { architecture: 'GemmaForCausalLM', permutesQk: false }],
  ['gemma2', { architecture: 'Gemma2ForCausalLM', permutesQk: false }],
  ['gemma3', { architecture: 'Gemma3ForCausalLM', permutesQk: false }],
  ['gemma3n', { architecture: 'Gemma3nForCausalLM', permutesQk: false, tensors: GEMMA3N_TENSORS }],
  ['gemma4', { architecture: 'Gemma4ForCausalLM', permutesQk: false, tensors: GEMMA4_TENSORS }],
  ['gemma-embedding', { architecture: 'Gemma3ForCausalLM', permutesQk: false, isBidirectional: true }],
  ['eurobert', { architecture: 'LlamaForCausalLM', permutesQk: false, isBidirectional: true }],
  ['phi3', { architecture: 'Phi3ForCausalLM', permutesQk: false }],
  ['olmo2', { architecture: 'Olmo2ForCausalLM', withWindow: 'Olmo3ForCausalLM', permutesQk: false }],
  ['granite', { architecture: 'GraniteForCausalLM', permutesQk: true }],
  ['mistral3', { architecture: 'Ministral3ForCausalLM', permutesQk: true }],
  ['glm4', { architecture: 'Glm4ForCausalLM', permutesQk: false }],
  ['exaone4', { architecture: 'Exaone4ForCausalLM', permutesQk: false }],
  ['ernie4_5', { architecture: 'Ernie4_5ForCausalLM', permutesQk: false }],
  ['seed_oss', { architecture: 'SeedOssForCausalLM', permutesQk: false }],
  ['arcee', { architecture: 'ArceeForCausalLM', permutesQk: true }],
  ['apertus', { architecture: 'ApertusForCausalLM', permutesQk: false }],
  ['hunyuan-dense', { architecture: 'HunYuanDenseV1ForCausalLM', permutesQk: false }],
  ['qwen3moe', { architecture: 'Qwen3MoeForCausalLM', permutesQk: false }],
  ['qwen2moe', { architecture: 'Qwen2MoeForCausalLM', permutesQk: false }],
  ['minimax-m2', { architecture: 'MiniMaxM2ForCausalLM', permutesQk: false }],
  ['olmoe', { architecture: 'OlmoeForCausalLM', permutesQk: false }],
  ['granitemoe', { architecture: 'GraniteMoeForCausalLM', permutesQk: true }],
  ['gpt-oss', { architecture: 'GptOssForCausalLM', permutesQk: false }],
  ['ernie4_5-moe', { architecture: 'Ernie4_5_MoeForCausalLM', permutesQk: false }],
  ['glm4moe', { architecture: 'Glm4MoeForCausalLM', permutesQk: false }],
  ['lfm2', { architecture: 'Lfm2ForCausalLM', permutesQk: false, stateNames: SHORT_CONVOLUTION }],
  ['qwen35', { architecture: 'Qwen3_5ForCausalLM', permutesQk: false, stateNames: GATED_DELTA, tilesKeyHeads: true }],
  [
    'qwen35moe',
    { architecture: 'Qwen3_5MoeForCausalLM', permutesQk: false, stateNames: GATED_DELTA, tilesKeyHeads: true },
  ],
  ['qwen3next', { architecture: 'Qwen3NextForCausalLM', permutesQk: false, stateNames: GATED_DELTA }],
  ['lfm2moe', { architecture: 'Lfm2MoeForCausalLM', permutesQk: false, stateNames: SHORT_CONVOLUTION }],
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
