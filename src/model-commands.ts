/** The commands that load a model and answer on stdout instead of serving it: eval and bench. */
import type { CommandLine, Config } from './config.ts'
import type { Engine } from './engine/request.ts'
import { EvaluationError, measureChoices, measurePerplexity } from './evaluation.ts'
import { measurementTable, measureSpeed } from './measurement.ts'
import { loadEngine, modelsOf } from './model-loading.ts'
import type { Log } from './observability/log.ts'
import { createProgress } from './progress.ts'

/** What loading has to say goes to the terminal: there is no log. */
const say = (event: string, fields: object = {}): void => {
  process.stderr.write(`${event} ${JSON.stringify(fields)}\n`)
}
const quiet = (): void => {}
const terminal: Log = { trace: quiet, debug: quiet, info: quiet, warn: say, error: say, fatal: say }

async function withEngine<T>(config: Config, use: (engine: Engine) => Promise<T>): Promise<T> {
  if (config.engineUrls.length > 0)
    throw new EvaluationError('--engine-url: expected a model of this process, found a remote engine')
  const [model, second] = modelsOf(config)
  if (model === undefined || second !== undefined)
    throw new EvaluationError(`--model: expected one model, found ${config.models.length}`)
  const { engine } = await loadEngine(config, model, terminal)
  try {
    return await use(engine)
  } finally {
    await engine.close()
  }
}

/** `miniserve eval perplexity|choices FILE`: one JSON line on stdout, progress on stderr. The exit code. */
export async function evaluate({ command, config, context }: CommandLine, file: string): Promise<number> {
  const progress = createProgress(process.stderr, 'scoring')
  try {
    const result = await withEngine<object>(config, (engine) =>
      command === 'eval choices'
        ? measureChoices(engine, file, progress.update)
        : measurePerplexity(engine, file, context, progress.update),
    )
    process.stdout.write(`${JSON.stringify(result)}\n`)
    return 0
  } finally {
    progress.end()
  }
}

/** `miniserve bench`: prompt and decode speed of this model on this machine, as a table or as JSON. The exit code. */
export async function benchmark({ config, bench }: CommandLine): Promise<number> {
  // Nothing that would make the model do less than it is asked to.
  const plain: Config = { ...config, prefixCaching: false, speculation: false }
  await withEngine(plain, async (engine) => {
    const measured = await measureSpeed(engine, bench)
    process.stdout.write(
      bench.isJson
        ? `${JSON.stringify({ model: engine.modelName, device: engine.modelInfo?.device, results: measured })}\n`
        : measurementTable(engine, measured),
    )
  })
  return 0
}
