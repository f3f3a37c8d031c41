/** The model: what is loaded, and on what it runs. */
import { z } from 'zod'
import { field } from './field.ts'
import { integer, choiceOf, nonEmptyText } from './values.ts'

/** Formats of function calls; the engine has the same names. */
const TOOL_CALL_FORMATS = ['command_a', 'deepseek_v3', 'deepseek_v31', 'functiongemma', 'gemma4', 'glm45', 'hermes', 'kimi_k2', 'lfm2', 'llama3_json', 'minimax_m2', 'mistral', 'mistral_args', 'openai', 'pythonic', 'qwen3_coder', 'seed_oss'] as const // prettier-ignore
const REASONING_FORMATS = ['command_a', 'gemma4', 'kimi_vl', 'mistral', 'openai_gptoss', 'qwen3', 'seed_oss'] as const

export const modelSettings = {
  models: field(z.array(nonEmptyText).default([]), {
    flag: 'model',
    env: 'MODEL',
    value: '[NAME=]PATH|ID',
    help: 'folder in Hugging Face layout, .gguf file, or hub id ORG/NAME; repeat it with names to serve several models',
    defaultText: 'the bundled model',
  }),
  lora: field(z.array(nonEmptyText).default([]), {
    flag: 'lora',
    env: 'LORA',
    value: 'NAME[@MODEL]=PATH',
    help: 'LoRA adapter (PEFT folder, GGUF file or hf:ORG/NAME), chosen by its name as `model` of a request; repeatable',
    defaultText: 'none',
  }),
  modelIdle: field(integer(1, 10_000_000).nullable().default(null), {
    flag: 'model-idle',
    value: 'SECONDS',
    help: 'unload a model after this time without a request; all models but the first are then loaded on demand',
    defaultText: 'never, and all are loaded at the start',
  }),
  servedModelName: field(nonEmptyText.nullable().default(null), {
    flag: 'served-model-name',
    value: 'NAME',
    help: 'model name in requests and responses, when one model is served',
    defaultText: "the folder's, file's or id's",
  }),
  device: field(choiceOf(['auto', 'webgpu', 'cpu', 'reference']).default('auto'), {
    flag: 'device',
    value: 'auto|webgpu|cpu|reference',
    help: 'where to compute: auto uses a hardware GPU if there is one, else cpu, else reference; webgpu uses any adapter, including software ones',
  }),
  chatTemplate: field(nonEmptyText.nullable().default(null), {
    flag: 'chat-template',
    env: 'CHAT_TEMPLATE',
    value: 'FILE',
    help: "Jinja template to use instead of the model's own",
    defaultText: "the model's own, else ChatML where the vocabulary has its marks",
  }),
  toolCallParser: field(choiceOf(['auto', ...TOOL_CALL_FORMATS, 'none']).default('auto'), {
    flag: 'tool-call-parser',
    value: 'NAME',
    help: `format of function calls: auto detects it from the chat template, none leaves calls in the text; or one of ${TOOL_CALL_FORMATS.join(', ')}`,
  }),
  reasoningParser: field(choiceOf(['auto', ...REASONING_FORMATS, 'none']).default('auto'), {
    flag: 'reasoning-parser',
    value: 'NAME',
    help: `format of the reasoning before an answer: auto detects it from the chat template, none leaves reasoning in the text; or one of ${REASONING_FORMATS.join(', ')}`,
  }),
  quantization: field(choiceOf(['none', 'q8', 'q4']).default('none'), {
    flag: 'quantization',
    value: 'none|q8|q4',
    help: 'quantise a float checkpoint while it loads, in groups of 32',
  }),
  kvCacheDtype: field(choiceOf(['auto', 'f16', 'q8']).default('auto'), {
    flag: 'kv-cache-dtype',
    value: 'auto|f16|q8',
    help: 'data type of the KV cache: q8 needs half the memory of f16; auto is f16, or f32 on the reference device',
  }),
  threads: field(integer(1, 64).nullable().default(null), {
    flag: 'threads',
    value: 'N',
    help: 'threads of the cpu backend',
    defaultText: 'physical cores, at most 8',
  }),
}
