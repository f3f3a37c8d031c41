/** What a model recommends for sampling parameters that a request leaves out: its generation_config.json. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'

/** Sampling parameters that a model's authors recommend; absent ones are OpenAI's. */
export interface SamplingDefaults {
  readonly temperature?: number
  readonly topK?: number
  readonly topP?: number
  readonly minP?: number
  readonly repetitionPenalty?: number
}

const generationConfig = z.object({
  do_sample: z.boolean().optional(),
  temperature: z.number().min(0).optional(),
  top_k: z.int().min(0).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  min_p: z.number().min(0).max(1).optional(),
  repetition_penalty: z.number().gt(0).optional(),
})

/**
 * What a model's generation_config.json recommends for parameters that a request leaves out; a value that makes no sense is left out too.
 * `do_sample: false`, written down, means greedy.
 */
export async function loadSamplingDefaults(modelPath: string): Promise<SamplingDefaults> {
  const text = await readFile(join(modelPath, 'generation_config.json'), 'utf8').catch(() => null)
  if (text === null) return {}
  let found: z.output<typeof generationConfig>
  try {
    found = generationConfig.parse(JSON.parse(text))
  } catch {
    return {}
  }
  const temperature = found.do_sample === false ? 0 : found.temperature
  return {
    ...(temperature === undefined ? {} : { temperature }),
    ...(found.top_k === undefined ? {} : { topK: found.top_k }),
    ...(found.top_p === undefined ? {} : { topP: found.top_p }),
    ...(found.min_p === undefined ? {} : { minP: found.min_p }),
    ...(found.repetition_penalty === undefined ? {} : { repetitionPenalty: found.repetition_penalty }),
  }
}
