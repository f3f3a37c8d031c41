/**
 * Fields that other servers have (vLLM, SGLang, llama.cpp) and that change what is answered: honoured where this server can do the same,
 * refused by name where it cannot. Left alone, a client would get an answer that looks right and is not.
 */
import { z } from 'zod'
import { list, nullable } from './validation.ts'

/** A field that this server knows and does not offer, except with a value that asks for nothing. */
export const unsupported = (allowed: readonly unknown[] = []) =>
  z
    .unknown()
    .optional()
    .refine((value) => value === undefined || value === null || allowed.some((item) => isSame(item, value)), {
      error: 'not supported by this server',
    })

/** Equal as a scalar or as a flat list: the caller's value may be of any size and depth. */
const isSame = (a: unknown, b: unknown): boolean =>
  Array.isArray(a) && Array.isArray(b) ? a.length === b.length && a.every((item, i) => item === b[i]) : a === b

/** A JSON schema as vLLM's and SGLang's clients send it. */
export const jsonSchema = z.union([z.record(z.string(), z.unknown()), z.string().min(1)], {
  error: 'a JSON schema, as an object or as a string',
})
const schema = nullable(jsonSchema)
const notation = nullable(z.string().min(1))
const choices = nullable(list(z.string().min(1), { min: 1, max: 1024 }))

/** Constraints on the answer in other servers' words; what they ask for is in job-constraints.ts. */
export const constraintFields = {
  /** vLLM before structured_outputs. */
  guided_json: schema,
  guided_regex: notation,
  guided_choice: choices,
  guided_grammar: notation,
  /** llama.cpp. */
  grammar: notation,
  /** llama.cpp and SGLang. */
  json_schema: schema,
  /** SGLang. */
  regex: notation,
  ebnf: notation,
}

/** For completions and chat. The allowed values are the defaults of those servers. */
export const unsupportedFields = {
  allowed_token_ids: unsupported(),
  bad_words: unsupported([[]]),
  skip_special_tokens: unsupported([true]),
  spaces_between_special_tokens: unsupported([true]),
  use_beam_search: unsupported([false]),
  length_penalty: unsupported([1]),
  early_stopping: unsupported([false]),
  logits_processors: unsupported([[]]),
  prompt_embeds: unsupported(),
  guided_decoding_backend: unsupported(['auto', 'xgrammar']),
  guided_whitespace_pattern: unsupported(),
  typical_p: unsupported([1]),
  tfs_z: unsupported([1]),
  mirostat: unsupported([0]),
  dynatemp_range: unsupported([0]),
  dry_multiplier: unsupported([0]),
  xtc_probability: unsupported([0]),
  top_n_sigma: unsupported([-1]),
  repeat_last_n: unsupported(),
  samplers: unsupported(),
  lora: unsupported([[]]),
  lora_path: unsupported(),
  kv_transfer_params: unsupported(),
  /** llama.cpp. */
  n_probs: unsupported([0]),
  n_indent: unsupported([0]),
  n_keep: unsupported([0]),
  n_discard: unsupported([0]),
  t_max_predict_ms: unsupported([0, -1]),
  response_fields: unsupported([[]]),
  image_data: unsupported([[]]),
  /** SGLang and text-generation-inference. */
  max_new_tokens: unsupported(),
  min_new_tokens: unsupported([0]),
  stop_regex: unsupported(),
  no_stop_trim: unsupported([false]),
  custom_logit_processor: unsupported(),
  /** text-generation-webui. */
  mirostat_mode: unsupported([0]),
  guidance_scale: unsupported([1]),
  negative_prompt: unsupported(['']),
  smoothing_factor: unsupported([0]),
  dynamic_temperature: unsupported([false]),
  top_a: unsupported([0]),
  epsilon_cutoff: unsupported([0]),
  eta_cutoff: unsupported([0]),
  /** Ollama. */
  options: unsupported(),
  format: unsupported(),
}
