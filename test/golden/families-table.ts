/** The table of decoder families in docs/models.md: what the code and the stored models say of each. */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExpertsFamily } from '../../src/engine/runner/expert-families.ts'
import { FAMILIES } from '../../src/engine/runner/families.ts'
import type { Family } from '../../src/engine/runner/family.ts'
import { GGUF_FAMILIES } from '../../src/engine/weights/gguf-families.ts'
import { GgufMetadata } from '../../src/engine/weights/gguf-file.ts'
import { parseGgufHeader } from '../../src/engine/weights/gguf-header.ts'
import { requireFamily } from '../../src/engine/weights/gguf.ts'
import { GOLDEN_MODELS, goldenPath } from './golden.ts'

const GGUF = fileURLToPath(new URL('./gguf/', import.meta.url))

interface Examples {
  readonly models: string
  readonly architectures: readonly string[]
  /** Names under which llama.cpp's converter writes these models too, although they mean another family of the same layers. */
  readonly alsoWrittenAs?: readonly string[]
}

/** A row of the table each, in its order. */
const EXAMPLES: readonly Examples[] = [
  { models: 'Llama 2, 3, 3.1, 3.2, SmolLM2', architectures: ['LlamaForCausalLM'] },
  { models: 'Mistral, Mistral Small', architectures: ['MistralForCausalLM'], alsoWrittenAs: ['llama'] },
  { models: 'Ministral', architectures: ['MinistralForCausalLM'] },
  { models: 'Ministral 3, up to its original context', architectures: ['Ministral3ForCausalLM'] },
  {
    models: 'Mistral Small 3.1 and 3.2, Ministral 3, text part',
    architectures: ['Mistral3ForConditionalGeneration'],
    alsoWrittenAs: ['llama', 'mistral3'],
  },
  { models: 'Qwen2, Qwen2.5', architectures: ['Qwen2ForCausalLM'] },
  { models: 'Qwen3, dense', architectures: ['Qwen3ForCausalLM'] },
  { models: 'SmolLM3', architectures: ['SmolLM3ForCausalLM'] },
  { models: 'Gemma', architectures: ['GemmaForCausalLM'] },
  { models: 'Gemma 2', architectures: ['Gemma2ForCausalLM'] },
  { models: 'Gemma 3, text part', architectures: ['Gemma3ForCausalLM', 'Gemma3ForConditionalGeneration'] },
  { models: 'Gemma 3n, text part', architectures: ['Gemma3nForCausalLM', 'Gemma3nForConditionalGeneration'] },
  {
    models: 'Gemma 4 (E2B, E4B, 26B with experts, 31B), text part',
    architectures: ['Gemma4ForCausalLM', 'Gemma4ForConditionalGeneration'],
  },
  { models: 'Phi-3, Phi-3.5, Phi-4, Phi-4-mini', architectures: ['Phi3ForCausalLM'] },
  { models: 'OLMo 2', architectures: ['Olmo2ForCausalLM'] },
  { models: 'OLMo 3', architectures: ['Olmo3ForCausalLM'] },
  { models: 'Granite 3, dense', architectures: ['GraniteForCausalLM'] },
  {
    models: 'Granite 4, with and without Mamba layers and experts',
    architectures: ['GraniteMoeHybridForCausalLM'],
    alsoWrittenAs: ['granite'],
  },
  { models: 'GLM-4-9B', architectures: ['GlmForCausalLM'] },
  { models: 'GLM-4 0414', architectures: ['Glm4ForCausalLM'] },
  { models: 'EXAONE 4', architectures: ['Exaone4ForCausalLM'] },
  { models: 'Ernie 4.5, dense', architectures: ['Ernie4_5ForCausalLM'] },
  { models: 'Seed-OSS', architectures: ['SeedOssForCausalLM'] },
  { models: 'Arcee (AFM)', architectures: ['ArceeForCausalLM'] },
  { models: 'Apertus', architectures: ['ApertusForCausalLM'] },
  { models: 'Hunyuan, dense', architectures: ['HunYuanDenseV1ForCausalLM'] },
  { models: 'Qwen3 with experts (30B-A3B, 235B-A22B, Coder)', architectures: ['Qwen3MoeForCausalLM'] },
  { models: 'Qwen1.5 and Qwen2 with experts (A2.7B, 57B-A14B)', architectures: ['Qwen2MoeForCausalLM'] },
  { models: 'MiniMax-M2', architectures: ['MiniMaxM2ForCausalLM'] },
  { models: 'gpt-oss', architectures: ['GptOssForCausalLM'] },
  { models: 'OLMoE', architectures: ['OlmoeForCausalLM'] },
  { models: 'Granite 3 with experts', architectures: ['GraniteMoeForCausalLM'] },
  { models: 'Mixtral', architectures: ['MixtralForCausalLM'] },
  { models: 'Ernie 4.5 with experts', architectures: ['Ernie4_5_MoeForCausalLM'] },
  { models: 'GLM-4.5, GLM-4.6, GLM-4.7 with experts, text', architectures: ['Glm4MoeForCausalLM'] },
  { models: 'LFM2, dense', architectures: ['Lfm2ForCausalLM'] },
  { models: 'LFM2 with experts', architectures: ['Lfm2MoeForCausalLM'] },
  { models: 'Qwen3.5, dense, text part', architectures: ['Qwen3_5ForCausalLM', 'Qwen3_5ForConditionalGeneration'] },
  {
    models: 'Qwen3.5 with experts, text part',
    architectures: ['Qwen3_5MoeForCausalLM', 'Qwen3_5MoeForConditionalGeneration'],
  },
  { models: 'Qwen3-Next', architectures: ['Qwen3NextForCausalLM'] },
]

/** A phrase, where what it says is so. */
const when = (isSo: boolean, phrase: string): readonly string[] => (isSo ? [phrase] : [])

const MIXERS = {
  none: [],
  shortConvolution: ['short convolutions'],
  gatedDelta: ['gated delta nets'],
  mamba2: ['Mamba-2 layers'],
} as const satisfies Record<Family['mixer'], readonly string[]>

const NOPE = {
  none: [],
  listed: ['some layers without rotary embedding'],
  global: ['no rotary embedding in layers that do not slide'],
  named: ['rotary embedding only if the config says so'],
} as const satisfies Record<Family['nope'], readonly string[]>

const NORMS = {
  pre: [],
  post: ['norms after attention and MLP instead of before'],
  sandwich: ['norms before and after attention and MLP'],
} as const satisfies Record<Family['normPlacement'], readonly string[]>

const EXPERT_LAYERS = {
  all: '',
  leading: ' behind dense layers',
  sparse: ', in some layers if the config says so',
  interval: ' at intervals',
} as const satisfies Record<ExpertsFamily['layers'], string>

function windowsOf({ windows }: Family): readonly string[] {
  switch (windows.kind) {
    case 'never':
      return []
    case 'always':
      return ['sliding windows in all layers if the config has one']
    case 'listed':
      return ['sliding windows by `layer_types`']
    case 'upper':
      return ['sliding windows in upper layers if switched on']
    case 'pattern':
      return [`sliding windows, one in ${windows.period} layers without`]
  }
}

function qkNormOf({ qkNorm, hasVNorm }: Family): readonly string[] {
  const what = hasVNorm ? 'norms of Q, K and V' : 'norms of Q and K'
  if (typeof qkNorm === 'object') return [`${what} by head if the config says so`]
  return {
    none: [],
    head: [`${what} by head`],
    full: [`${what} over all heads`],
    rotatedHead: [`${what} by head after the rotation`],
  }[qkNorm]
}

function expertsOf({ experts, hasParallelExperts }: Family): readonly string[] {
  if (experts === null) return when(hasParallelExperts, 'experts beside the MLP in some models')
  const isShared = experts.sharedCountField !== null || experts.sharedWidthField !== null
  return [
    `experts${isShared ? ' and shared ones' : ''}${experts.isOptional ? ' in some models' : ''}${EXPERT_LAYERS[experts.layers]}`,
    ...when(experts.scores === 'sigmoid', 'sigmoid routers'),
    ...when(experts.hasChoiceBias !== false, 'a bias for the choice of experts'),
    ...when(experts.hasBias, 'experts with biases'),
    ...when(experts.glu === 'silu_clamped', 'clamped SiLU'),
  ]
}

function specialOf(family: Family): string {
  return [
    ...expertsOf(family),
    ...MIXERS[family.mixer],
    ...windowsOf(family),
    ...when(family.localTheta !== null, 'a rotary embedding of their own in sliding layers'),
    ...when(family.hasSinks, 'attention sinks'),
    ...when(family.gatesAttention, 'gated attention'),
    ...qkNormOf(family),
    ...NORMS[family.normPlacement],
    ...NOPE[family.nope],
    ...when(family.rotatesNeighbours, 'rotation of neighbouring dims'),
    ...when(family.qkvBias === true, 'biases of Q, K and V'),
    ...when(family.hasPlainMlp, `an MLP without a gate (${family.activation})`),
    ...when(family.sharesKv, 'last layers share K and V'),
    ...when(family.hasGlobalHeads, 'head sizes by layer'),
    ...when(family.hasLayerInputs, 'per-layer embeddings'),
    ...when(family.hasStreams, 'several residual streams'),
    ...when(family.hasLayerScale, 'scaled layers'),
    ...when(family.scalesEmbeddings, 'scaled embeddings'),
    ...when(family.hasMultipliers, 'multipliers of embeddings, residuals, attention and logits'),
  ].join('; ')
}

/** Architectures of the stored checkpoints, one entry for each. */
const storedCheckpoints = (): readonly string[] =>
  GOLDEN_MODELS.flatMap((name) => {
    const config = JSON.parse(readFileSync(`${goldenPath(name)}/config.json`, 'utf8')) as { architectures: string[] }
    return config.architectures
  })

/** The same of the stored GGUF files. */
const storedFiles = (): readonly string[] =>
  readdirSync(GGUF)
    .filter((name) => name.endsWith('.gguf'))
    .map((name) => {
      const bytes = readFileSync(`${GGUF}${name}`)
      const header = parseGgufHeader(name, bytes, bytes.length)
      if (header === null) throw new Error(`${name}: the header does not end`)
      return requireFamily(new GgufMetadata(name, header)).architecture
    })

/** Names in GGUF files of decoders that generate. */
function ggufNames({ architectures, alsoWrittenAs = [] }: Examples): readonly string[] {
  const own = [...GGUF_FAMILIES].flatMap(([name, { architecture, withExperts, withWindow, config }]) =>
    config?.['use_bidirectional_attention'] !== true &&
    [architecture, withExperts, withWindow].some((known) => known !== undefined && architectures.includes(known))
      ? [name]
      : [],
  )
  return [...alsoWrittenAs, ...own]
}

const code = (name: string): string => `\`${name}\``

/** The table. Throws Error for a family without examples, or examples without a family. */
export function familiesMarkdown(): string {
  const named = EXAMPLES.flatMap(({ architectures }) => architectures)
  const served = Object.keys(FAMILIES)
  const stray = [...served, ...named].filter((name) => !served.includes(name) || !named.includes(name))
  if (stray.length > 0) throw new Error(`in FAMILIES or in EXAMPLES only: ${stray.join(', ')}`)
  const checkpoints = storedCheckpoints()
  const files = storedFiles()
  const familyOf = ({ architectures }: Examples): Family => FAMILIES[architectures[0]!]!
  const countOf = (stored: readonly string[], { architectures }: Examples): number =>
    stored.filter((architecture) => architectures.includes(architecture)).length
  const checkedOf = (row: Examples, names: readonly string[]): string => {
    const numCheckpoints = countOf(checkpoints, row)
    if (numCheckpoints === 0) {
      const same = EXAMPLES.filter((other) => familyOf(other) === familyOf(row) && countOf(checkpoints, other) > 0)
      if (same.length === 0) throw new Error(`no stored model is of ${row.architectures.join(', ')}`)
      return `as ${same.map(({ architectures: [name = ''] }) => name.replace('ForCausalLM', '')).join(' and ')}`
    }
    const safetensors = `safetensors: ${numCheckpoints} ${numCheckpoints === 1 ? 'model' : 'models'}`
    return names.length === 0 ? safetensors : `${safetensors}; GGUF: ${countOf(files, row) || 'none'}`
  }
  const rows = EXAMPLES.map((row) => {
    const names = ggufNames(row)
    const architectures = row.architectures.map(code).join(', ')
    return [row.models, architectures, names.map(code).join(', '), specialOf(familyOf(row)), checkedOf(row, names)]
  })
  const head = ['models', 'architecture in `config.json`', 'in GGUF', 'what is special', 'checked how']
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`.replaceAll('|  |', '| |')
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n')
}
