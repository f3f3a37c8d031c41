/** What libraries trace by the global API while the engine works for a request nests below the span that is live in it. */
import { trace as traceApi } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { afterEach, expect, it } from 'vitest'
import { collect, request } from '../../test/engine/requests.ts'
import { openScriptedEngine, until } from '../../test/engine/scripted-engine.ts'
import { createByteTokenizer } from '../../test/engine/byte-tokenizer.ts'
import { ScriptedRunner } from '../../test/engine/scripted-runner.ts'
import { open, storedTree, testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import { createEngine } from '../engine/engine.ts'
import type { EngineSubscriber } from '../engine/events.ts'
import { openKvTiers } from '../engine/kv/kv-tiers.ts'
import type { Engine } from '../engine/request.ts'
import { spansToOtlp } from './otlp.ts'
import { validateTraces } from './validate.ts'

let observability: TestObservability
const engines: Engine[] = []
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close()
  await observability.shutdown(100)
})

/** What an instrumented library does: a span below whatever is active. */
function work(name: string): void {
  traceApi.getTracer('library').startActiveSpan(name, (span) => span.end())
}

/** Serves one request, as the server would. */
async function serve(engine: Engine, text: string): Promise<readonly ReadableSpan[]> {
  const trace = open(observability)
  trace.setGeneration({ operation: 'text_completion', model: 'scripted', numChoices: 1, n: 1 })
  const { requestId } = trace
  await trace.run(() => collect(engine, request({ requestId, prompts: [{ text }], maxTokens: 6, ignoreEos: true })))
  trace.finish({ ending: 'success', status: 200 })
  // With blocks on their way to a tier the trace waits for them.
  await until(() => observability.open().requests === 0)
  return storedTree(observability, trace.traceId).spans
}

/** Names of the spans above those of a name, in order. */
function parentsOf(spans: readonly ReadableSpan[], name: string): string[] {
  const names = new Map(spans.map((span) => [span.spanContext().spanId, span.name]))
  return spans
    .filter((span) => span.name === name)
    .map(({ parentSpanContext }) => names.get(parentSpanContext?.spanId ?? '') ?? 'elsewhere')
}

function subscribe(engine: Engine, others: readonly EngineSubscriber[] = []): Engine {
  for (const subscriber of observability.subscribers(others)) engine.subscribe(subscriber)
  engines.push(engine)
  return engine
}

it('a step that serves one request runs below its llm.prefill, then below its llm.decode', async () => {
  observability = testObservability()
  const { engine } = openScriptedEngine({ runAhead: 0 }, { onPlan: () => work('library.step') })
  const spans = await serve(subscribe(engine), 'one')
  expect(parentsOf(spans, 'library.step')).toEqual(['llm.prefill', ...Array.from({ length: 5 }, () => 'llm.decode')])
})

it('a step that fails leaves its exception on the phase that it failed, down to what caused it', async () => {
  observability = testObservability()
  let numPlans = 0
  const onPlan = () => {
    if (++numPlans === 4) throw new RangeError('the prompt was SECRET')
  }
  const { engine } = openScriptedEngine({ runAhead: 0 }, { onPlan })
  const trace = open(observability)
  const { requestId } = trace
  trace.setGeneration({ operation: 'text_completion', model: 'scripted', numChoices: 1, n: 1 })
  const failure = await collect(subscribe(engine), request({ requestId, maxTokens: 8, ignoreEos: true })).catch(
    (error: unknown) => error,
  )
  trace.finish({ ending: 'engine_error', status: 500, error: failure })
  const { spans } = storedTree(observability, trace.traceId)
  for (const name of ['llm.decode', 'http.handler']) {
    const span = spans.find((found) => found.name === name)
    expect([name, span?.status]).toEqual([name, { code: 2, message: 'engine_error' }])
    const exception = span?.events.find((event) => event.name === 'exception')
    expect(exception?.attributes).toMatchObject({ 'exception.type': 'EngineError' })
    expect(exception?.attributes?.['exception.stacktrace']).toMatch(
      /Caused by: RangeError\nat .*live-context\.test\.ts/,
    )
  }
  // The server's own stages are not played here.
  const breaches = validateTraces(spansToOtlp(spans), 'contract').filter(({ rule }) => rule !== 'span.missing')
  expect(breaches).toEqual([])
  expect(JSON.stringify(spansToOtlp(spans))).not.toContain('SECRET')
})

it('a subscriber hears each event below the span that is live in its request', async () => {
  observability = testObservability()
  const { engine } = openScriptedEngine({ runAhead: 0 })
  const plugin: EngineSubscriber = { name: 'plugin', onEvent: ({ type }) => work(`plugin.${type}`) }
  const spans = await serve(subscribe(engine, [plugin]), 'two')
  for (const [event, parent] of [
    ['requestAccepted', 'http.handler'],
    ['queued', 'http.handler'],
    ['scheduled', 'llm.prefill'],
    ['prefillChunk', 'llm.prefill'],
    ['firstToken', 'llm.decode'],
    ['finished', 'llm.decode'],
    ['requestFinished', 'http.handler'],
  ] as const)
    expect([event, parentsOf(spans, `plugin.${event}`)]).toEqual([event, [parent]])
})

it('what is kept of a request on a KV tier is written below kv.store, and fetched below kv.retrieve', async () => {
  observability = testObservability({ traceDetail: 'steps' })
  class Traced extends ScriptedRunner {
    override readBlocks(...parameters: Parameters<ScriptedRunner['readBlocks']>) {
      work('library.read')
      return super.readBlocks(...parameters)
    }
    override writeBlocks(...parameters: Parameters<ScriptedRunner['writeBlocks']>) {
      work('library.write')
      return super.writeBlocks(...parameters)
    }
  }
  // A pool of 8 blocks, so that the second prompt pushes the first out.
  const runner = new Traced({ numBlocks: 8, blockSize: 4, vocabSize: 259, maxNumBatchedTokens: 32 })
  const kvTiers = await openKvTiers({
    hostMemoryBytes: 1 << 20,
    directory: null,
    maxDiskBytes: 0,
    fingerprint: 'model',
    blockSize: 4,
    blockBytes: runner.modelInfo.blockBytes,
    onLog: () => {},
  })
  const engine = subscribe(
    createEngine({
      runner,
      modelInfo: runner.modelInfo,
      tokenizer: createByteTokenizer(),
      chatTemplate: null,
      kvTiers,
      options: {
        modelName: 'scripted',
        maxNumSeqs: 4,
        prefixCaching: true,
        runAhead: 0,
        speculation: false,
        maxQueuedRequests: 8,
        maxQueuedTokens: 512,
      },
    }),
  )
  const first = await serve(engine, 'the first prompt')
  expect(parentsOf(first, 'library.read')).toEqual(['kv.store'])
  await serve(engine, 'another prompt, as long')
  const again = await serve(engine, 'the first prompt')
  expect(parentsOf(again, 'library.write')).toEqual(['kv.retrieve'])
})
