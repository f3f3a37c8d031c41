/** Requests with defaults, and what came back. */
import type { Engine, GenerationEvent, GenerationRequest, SamplingParams } from '../../src/engine/request.ts'

export const GREEDY: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: null,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  logitBias: null,
}

let numRequests = 0

export function request(
  fields: Partial<Omit<GenerationRequest, 'sampling'>> & { readonly sampling?: Partial<SamplingParams> },
): GenerationRequest {
  return {
    requestId: `cmpl-${numRequests++}`,
    prompts: [{ text: 'hello' }],
    n: 1,
    maxTokens: 8,
    minTokens: 0,
    stop: [],
    stopTokenIds: [],
    includeStopString: false,
    ignoreEos: false,
    logprobs: -1,
    promptLogprobs: -1,
    structured: null,
    cacheSalt: '',
    priority: 0,
    deadlineMs: null,
    ...fields,
    sampling: { ...GREEDY, ...fields.sampling },
  }
}

export interface Collected {
  readonly events: GenerationEvent[]
  /** By choice. */
  readonly texts: string[]
  readonly tokenIds: number[][]
  readonly reasons: string[]
}

/** Runs a request to its end. */
export async function collect(engine: Engine, generation: GenerationRequest, signal?: AbortSignal): Promise<Collected> {
  const collected: Collected = { events: [], texts: [], tokenIds: [], reasons: [] }
  for await (const event of engine.submit(generation, signal ?? new AbortController().signal)) {
    collected.events.push(event)
    if (event.type === 'token') {
      collected.texts[event.choice] = (collected.texts[event.choice] ?? '') + event.text
      ;(collected.tokenIds[event.choice] ??= []).push(...event.tokenIds)
    } else if (event.type === 'finished') {
      collected.texts[event.choice] ??= ''
      collected.tokenIds[event.choice] ??= []
      collected.reasons[event.choice] = event.reason
    }
  }
  return collected
}
