/** A local engine over the scripted runner, small enough that blocks run out. */
import { createEngine } from '../../src/engine/engine.ts'
import type { EngineOptions } from '../../src/engine/engine.ts'
import type { EngineEvent } from '../../src/engine/events.ts'
import type { Engine } from '../../src/engine/request.ts'
import type { Tokenizer } from '../../src/engine/tokenizer/tokenizer.ts'
import { createByteTokenizer } from './byte-tokenizer.ts'
import { ScriptedRunner } from './scripted-runner.ts'
import type { ScriptedRunnerOptions } from './scripted-runner.ts'

export interface ScriptedEngine {
  readonly engine: Engine
  /** Everything the engine published. */
  readonly events: EngineEvent[]
  /** Everything it was told to report. */
  readonly errors: unknown[]
  readonly runner: ScriptedRunner
}

const bytes = createByteTokenizer()

/** `runner`: its model and pool. Close the engine. */
export function openScriptedEngine(
  options: Partial<EngineOptions> = {},
  runner: Partial<ScriptedRunnerOptions> = {},
  tokenizer: Tokenizer = bytes,
): ScriptedEngine {
  const scripted = new ScriptedRunner({
    numBlocks: 64,
    blockSize: 4,
    vocabSize: 259,
    maxNumBatchedTokens: 32,
    ...runner,
  })
  const errors: unknown[] = []
  const engine = createEngine({
    runner: scripted,
    modelInfo: scripted.modelInfo,
    tokenizer,
    chatTemplate: null,
    options: {
      modelName: 'scripted',
      maxNumSeqs: 8,
      prefixCaching: true,
      runAhead: 1,
      speculation: false,
      maxQueuedRequests: 64,
      maxQueuedTokens: 4096,
      onError: (_where, error) => errors.push(error),
      ...options,
    },
  })
  const events: EngineEvent[] = []
  engine.subscribe({ name: 'test', onEvent: (event) => events.push(event) })
  return { engine, events, errors, runner: scripted }
}

/** Lets the engine work until something holds. */
export async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise((resolve) => setImmediate(resolve))
}

/** The events of one type. */
export function ofType<T extends EngineEvent['type']>(
  events: readonly EngineEvent[],
  type: T,
): Extract<EngineEvent, { type: T }>[] {
  return events.filter((event): event is Extract<EngineEvent, { type: T }> => event.type === type)
}

/** What an idle engine holds: all of `numFreeBlocks`, and nothing else. */
export function heldBy(engine: Engine): { numRunning: number; numWaiting: number; numHeldBlocks: number } {
  const { numRunning, numWaiting, numBlocks, numFreeBlocks } = engine.stats()
  return { numRunning, numWaiting, numHeldBlocks: numBlocks - numFreeBlocks }
}
