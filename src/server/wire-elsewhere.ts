/**
 * Fields of other servers (vLLM, SGLang, llama.cpp) that change the result. They are honoured if this server can do the same, and refused by
 * name otherwise. If they were ignored, a client would get a response that only looks right.
 */
import { z } from 'zod'
import { list, nullable } from './validation.ts'

/** A field that this server does not support. Only values that ask for nothing are allowed. */
export const unsupported = (allowed: readonly unknown[] = []) =>
  z
    .unknown()
    .optional()
    .refine((value) => value === undefined || value === null || allowed.some((item) => isSame(item, value)), {
      error: 'not supported by this server',
    })

/** Whether two scalars or flat lists are equal. The caller's value may have any size and depth. */
const isSame = (a: unknown, b: unknown): boolean =>
  Array.isArray(a) && Array.isArray(b) ? a.length === b.length && a.every((item, i) => item === b[i]) : a === b

/** A JSON schema as vLLM's and SGLang's clients send it. */
export const jsonSchema = z.union([z.record(z.string(), z.unknown()), z.string().min(1)], {
  error: 'a JSON schema, as an object or as a string',
})
const schema = nullable(jsonSchema)
const notation = nullable(z.string().min(1))
const choices = nullable(list(z.string().min(1), { min: 1, max: 1024 }))

/** Constraints on the output in the fields of other servers. job-constraints.ts reads them. */
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

/** Unsupported fields of all generation routes. The allowed values are the defaults of the other servers. */
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
