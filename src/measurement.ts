/** How fast a model runs here: prompt processing and decoding apart, in the form of llama.cpp's llama-bench. */
import { bareRequest } from './bare-request.ts'
import type { ChoiceFinishedEvent, Engine } from './engine/request.ts'

interface MeasurementOptions {
  /** Tokens of the prompt test; 0: none. */
  readonly promptTokens: number
  /** Tokens of the decode test; 0: none. */
  readonly newTokens: number
  readonly repetitions: number
}

interface Measurement {
  /** pp512 or tg128, as llama-bench names its tests. */
  readonly test: string
  readonly tokens_per_second: number
  readonly standard_deviation: number
  readonly samples: readonly number[]
}

/** Measures both tests, each after one run that is not counted. Prompts are random tokens, different each time: no cache serves them. */
export async function measureSpeed(engine: Engine, options: MeasurementOptions): Promise<Measurement[]> {
  const { promptTokens, newTokens, repetitions } = options
  const measured: Measurement[] = []
  if (promptTokens > 0) {
    measured.push(
      await repeat(`pp${promptTokens}`, repetitions, async () => {
        const { counters } = await run(engine, randomTokens(engine, promptTokens), 0)
        return promptTokens / seconds(counters.firstScheduledMs, counters.scoredMs)
      }),
    )
  }
  if (newTokens > 0) {
    measured.push(
      await repeat(`tg${newTokens}`, repetitions, async () => {
        // The first token ends the prefill: the time of the others is measured.
        const { counters } = await run(engine, randomTokens(engine, 1), newTokens + 1)
        return newTokens / seconds(counters.firstTokenMs, counters.lastTokenMs)
      }),
    )
  }
  return measured
}

async function repeat(test: string, repetitions: number, measure: () => Promise<number>): Promise<Measurement> {
  await measure()
  const samples: number[] = []
  for (let i = 0; i < repetitions; i++) samples.push(await measure())
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length
  const variance = samples.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(samples.length - 1, 1)
  return { test, tokens_per_second: mean, standard_deviation: Math.sqrt(variance), samples }
}

const seconds = (fromMs: number | null, toMs: number | null): number => ((toMs ?? 0) - (fromMs ?? 0)) / 1000

function randomTokens(engine: Engine, count: number): number[] {
  const size = engine.modelInfo?.vocabSize ?? 1
  return Array.from({ length: count }, () => Math.floor(Math.random() * size))
}

async function run(engine: Engine, ids: readonly number[], maxTokens: number): Promise<ChoiceFinishedEvent> {
  const request = bareRequest(ids, { requestId: 'bench', maxTokens, promptLogprobs: -1, cacheSalt: 'bench' })
  let finished: ChoiceFinishedEvent | null = null
  for await (const event of engine.submit(request, new AbortController().signal))
    if (event.type === 'finished') finished = event
  if (finished === null) throw new Error('the engine ended a measurement without a result')
  return finished
}

/** llama-bench's Markdown table. */
export function measurementTable(engine: Engine, measured: readonly Measurement[]): string {
  const info = engine.modelInfo
  const size = `${((info?.weightBytes ?? 0) / 2 ** 20).toFixed(2)} MiB`
  const rows = measured.map(
    ({ test, tokens_per_second: mean, standard_deviation: deviation }) =>
      `| ${engine.modelName} | ${size} | ${info?.device.kind ?? 'remote'} | ${test} | ${mean.toFixed(2)} ± ${deviation.toFixed(2)} |`,
  )
  return ['| model | size | backend | test | t/s |', '|---|---:|---|---:|---:|', ...rows, ''].join('\n')
}
