/** A model's recommended values (generation_config.json) for sampling parameters that a request leaves out. */
import { join } from 'node:path'
import { z } from 'zod'
import { type Json, readJsonObject } from './weights/json-file.ts'

/** Recommended sampling parameters. OpenAI's defaults apply to absent ones. */
export interface SamplingDefaults {
  readonly temperature?: number
  readonly topK?: number
  readonly topP?: number
  readonly minP?: number
  readonly repetitionPenalty?: number
}

/** Fields are validated one by one. An invalid field, or null, counts as absent and does not affect the others. */
const FIELDS = {
  do_sample: z.boolean(),
  temperature: z.number().min(0).max(2),
  // Some files write -1 for "off".
  top_k: z
    .int()
    .min(-1)
    .transform((value) => Math.max(value, 0)),
  top_p: z.number().gt(0).max(1),
  min_p: z.number().min(0).max(1),
  repetition_penalty: z.number().gt(0).max(10),
} as const

/** Reads a model's generation_config.json; {} without one. @throws ModelError for a file that is no JSON object */
export const loadSamplingDefaults = async (modelPath: string): Promise<SamplingDefaults> =>
  parseSamplingDefaults((await readJsonObject(join(modelPath, 'generation_config.json'))) ?? {})

/** The same from the content of the file. An explicit `do_sample: false` means greedy decoding, whatever the other fields say. */
export function parseSamplingDefaults(given: Json): SamplingDefaults {
  const read = <K extends keyof typeof FIELDS>(name: K): z.output<(typeof FIELDS)[K]> | undefined =>
    FIELDS[name].safeParse(given[name]).data as z.output<(typeof FIELDS)[K]> | undefined
  const temperature = read('do_sample') === false ? 0 : read('temperature')
  const [topK, topP, minP, repetitionPenalty] = [
    read('top_k'),
    read('top_p'),
    read('min_p'),
    read('repetition_penalty'),
  ]
  return {
    ...(temperature === undefined ? {} : { temperature }),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
    ...(minP === undefined ? {} : { minP }),
    ...(repetitionPenalty === undefined ? {} : { repetitionPenalty }),
  }
}
