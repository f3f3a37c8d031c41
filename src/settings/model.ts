/** The model: what is loaded, and on what it runs. */
import { z } from 'zod'
import { field } from './field.ts'
import { integer, choiceOf, nonEmptyText } from './values.ts'

export const modelSettings = {
  models: field(z.array(nonEmptyText).default([]), {
    flag: 'model',
    env: 'MODEL',
    value: '[NAME=]PATH|ID',
    help: 'a folder in Hugging Face layout, a .gguf file, or a hub id ORG/NAME; repeatable, each under its name',
    defaultText: 'the bundled model',
  }),
  modelIdle: field(integer(1, 10_000_000).nullable().default(null), {
    flag: 'model-idle',
    value: 'SECONDS',
    help: 'unload a model that nobody has used for so long; models but the first are then loaded by their first request',
    defaultText: 'never, and all are loaded at the start',
  }),
  servedModelName: field(nonEmptyText.nullable().default(null), {
    flag: 'served-model-name',
    value: 'NAME',
    help: 'name in requests and responses, of the only model',
    defaultText: "the folder's, file's or id's",
  }),
  device: field(choiceOf(['auto', 'webgpu', 'cpu', 'reference']).default('auto'), {
    flag: 'device',
    value: 'auto|webgpu|cpu|reference',
    help: 'auto takes a real GPU, else cpu, else reference; webgpu takes any adapter, software ones included',
  }),
  chatTemplate: field(nonEmptyText.nullable().default(null), {
    flag: 'chat-template',
    env: 'CHAT_TEMPLATE',
    value: 'FILE',
    help: "a Jinja template to use instead of the model's own",
    defaultText: "the model's own, else ChatML where the vocabulary has its marks",
  }),
  toolCallParser: field(
    choiceOf(['auto', 'command_a', 'deepseek_v3', 'deepseek_v31', 'functiongemma', 'gemma4', 'glm45', 'hermes', 'kimi_k2', 'lfm2', 'llama3_json', 'minimax_m2', 'mistral', 'mistral_args', 'openai', 'pythonic', 'qwen3_coder', 'seed_oss', 'none']).default('auto'), // prettier-ignore
    {
      flag: 'tool-call-parser',
      value: 'NAME',
      help: 'how the model writes function calls: auto asks its chat template, none leaves them in the text; or command_a, deepseek_v3, deepseek_v31, functiongemma, gemma4, glm45, hermes, kimi_k2, lfm2, llama3_json, minimax_m2, mistral, mistral_args, openai, pythonic, qwen3_coder, seed_oss',
    },
  ),
  reasoningParser: field(
    choiceOf(['auto', 'command_a', 'gemma4', 'kimi_vl', 'mistral', 'openai_gptoss', 'qwen3', 'seed_oss', 'none']).default('auto'), // prettier-ignore
    {
      flag: 'reasoning-parser',
      value: 'NAME',
      help: 'how the model marks what it thinks before it answers: auto asks its chat template, none leaves it in the text; or command_a, gemma4, kimi_vl, mistral, openai_gptoss, qwen3, seed_oss',
    },
  ),
  quantization: field(choiceOf(['none', 'q8', 'q4']).default('none'), {
    flag: 'quantization',
    value: 'none|q8|q4',
    help: 'quantise a float checkpoint on load, in groups of 32',
  }),
  kvCacheDtype: field(choiceOf(['auto', 'f16', 'q8']).default('auto'), {
    flag: 'kv-cache-dtype',
    value: 'auto|f16|q8',
    help: "elements of the KV cache: q8 takes half of f16's memory; auto is f16, and f32 on the reference device",
  }),
  threads: field(integer(1, 64).nullable().default(null), {
    flag: 'threads',
    value: 'N',
    help: 'threads of the cpu backend',
    defaultText: 'physical cores, at most 8',
  }),
}
