/** Measures how fast a model runs here: prompt processing and decoding separately, in the format of llama.cpp's llama-bench. */
import { bareRequest } from './bare-request.ts'
import type { ChoiceFinishedEvent, Engine } from './engine/request.ts'

interface MeasurementOptions {
  /** Tokens of the prompt test; 0: skip the test. */
  readonly promptTokens: number
  /** Tokens of the decode test; 0: skip the test. */
  readonly newTokens: number
  readonly repetitions: number
}

interface Measurement {
  /** Name in llama-bench's style, such as pp512 or tg128. */
  readonly test: string
  readonly tokens_per_second: number
  readonly standard_deviation: number
  readonly samples: readonly number[]
}

/** Runs both tests, each after one warm-up run. Every prompt has new random tokens, so that the prefix cache cannot serve it. */
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
        // The first token belongs to the prefill; the time of the others is measured.
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

/** The results as a Markdown table in llama-bench's format. */
export function measurementTable(engine: Engine, measured: readonly Measurement[]): string {
  const info = engine.modelInfo
  const size = `${((info?.weightBytes ?? 0) / 2 ** 20).toFixed(2)} MiB`
  const rows = measured.map(
    ({ test, tokens_per_second: mean, standard_deviation: deviation }) =>
      `| ${engine.modelName} | ${size} | ${info?.device.kind ?? 'remote'} | ${test} | ${mean.toFixed(2)} ± ${deviation.toFixed(2)} |`,
  )
  return ['| model | size | backend | test | t/s |', '|---|---:|---|---:|---:|', ...rows, ''].join('\n')
}
