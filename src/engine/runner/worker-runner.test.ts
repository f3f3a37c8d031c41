import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { GREEDY } from '../../kernels/sampling.ts'
import { createLocalRunner } from './local.ts'
import { type LateMasks, ModelError, type Runner, RunnerError, type StepPlan } from './runner.ts'
import { createWorkerRunner } from './worker-runner.ts'

const golden = readGolden('llama')
let folder = ''
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'miniserve-worker-'))))
afterAll(() => rmSync(folder, { recursive: true }))

function planOf(stepId: number, ids: readonly number[], startPosition: number): StepPlan {
  const sequence = { startPosition, blockTable: Int32Array.of(3, 1, 4, 2), sample: [{ ...GREEDY, logprobs: 2 }] }
  return {
    stepId,
    blockCopies: [],
    sequences: [
      { ...sequence, tokenSource: { ids: Int32Array.from(ids) }, score: { targets: Int32Array.of(7), topN: 1 } },
    ],
  }
}

/** A worker that answers `load` and runs `body` for every other message. Steps are numbers; messages with their memory are ignored. */
function scriptedWorker(name: string, body: string): URL {
  const path = join(folder, `${name}.mjs`)
  writeFileSync(
    path,
    `import { parentPort } from 'node:worker_threads'
parentPort.on('message', (request) => {
  if (request.memory) return
  const { id, call = { kind: 'execute' } } = request
  if (call.kind === 'load') return parentPort.postMessage({ id, value: {} })
  ${body}
})`,
  )
  return pathToFileURL(path)
}

/** The reasons with which promises reject. Handlers are attached at once. */
async function codesOf(calls: readonly Promise<unknown>[]): Promise<unknown[]> {
  const settled = await Promise.allSettled(calls)
  return settled.map((result) =>
    result.status === 'rejected' && result.reason instanceof RunnerError ? result.reason.code : 'not a RunnerError',
  )
}

test('a step in a thread has the same result as in this one, with progress, log-probabilities and blocks', async () => {
  const local = createLocalRunner()
  const remote = createWorkerRunner()
  const progress: [number, number][] = []
  const infos = [
    await local.load(goldenRequest('llama')),
    await remote.load(goldenRequest('llama'), (done, total) => progress.push([done, total])),
  ]
  expect(infos[1]).toEqual(infos[0])
  const { memory, numKvBlocks, blockBytes } = infos[0]!
  expect(memory.kvCacheBytes).toBe(numKvBlocks * blockBytes)
  expect(Math.min(memory.weightBytes, memory.scratchBytes)).toBeGreaterThan(0)
  expect(progress.at(-1)![0]).toBe(infos[0]!.weightBytes)
  expect(progress.at(-1)![1]).toBe(infos[0]!.weightBytes)
  // Two steps in flight: the second takes the token that the first samples.
  const first = planOf(1, golden.prompt, 0)
  const { sequences } = planOf(2, [], golden.prompt.length)
  const second: StepPlan = {
    stepId: 2,
    blockCopies: [],
    sequences: [{ ...sequences[0]!, tokenSource: { fromPreviousStep: 0 } }],
  }
  const run = (runner: Runner) => Promise.all([runner.execute(first), runner.execute(second)])
  const withoutTimes = (results: Awaited<ReturnType<typeof run>>) =>
    results.map((result) => ({ ...result, computeMs: 0 }))
  const expected = withoutTimes(await run(local))
  expect(withoutTimes(await run(remote))).toEqual(expected)
  expect(expected.map((result) => result.sequences[0]!.tokens[0])).toEqual(golden.tokens.slice(0, 2))
  expect(expected[0]!.sequences[0]!.logprobs[0]!.topTokens).toHaveLength(2)
  expect(expected[0]!.sequences[0]!.scores).toHaveLength(1)

  const mask = new Uint32Array(3)
  mask[0] = 1 << 5
  const masks = (): Promise<LateMasks> => new Promise((resolve) => setImmediate(() => resolve(new Map([[0, mask]]))))
  for (const runner of [local, remote])
    expect((await runner.execute(first, masks())).sequences[0]!.tokens, 'a mask that comes later').toEqual([5])

  const bytes = await remote.readBlocks([3, 1])
  expect(bytes).toEqual(await local.readBlocks([3, 1]))
  await remote.writeBlocks([9, 8], bytes)
  expect(bytes.length).toBe(2 * infos[0]!.blockBytes)
  expect(await remote.readBlocks([9, 8])).toEqual(bytes)
  await Promise.all([local.close(), remote.close()])
})

test.each([
  ['local', () => createLocalRunner()],
  ['worker', () => createWorkerRunner()],
])(
  '%s: errors keep their class and code, a bad plan does not end the runner, close is final and idempotent',
  async (_name, create) => {
    const runner = create()
    await expect(runner.execute(planOf(0, [1], 0))).rejects.toThrow('no model is loaded')
    await runner.load(goldenRequest('llama'))
    const [bad, good] = [runner.execute(planOf(0, [1, 96], 0)), runner.execute(planOf(1, golden.prompt, 0))]
    await expect(bad).rejects.toThrow('step 0: sequence 0 has token 96, vocabulary 96')
    expect((await good).sequences[0]!.tokens).toEqual([golden.tokens[0]])
    expect(
      await codesOf([
        runner.execute(planOf(2, [1], 300)),
        runner.execute(planOf(3, golden.prompt.concat(golden.prompt), 0)),
      ]),
    ).toEqual(['engine_error', 'engine_error'])
    const inFlight = codesOf([runner.execute(planOf(4, golden.prompt, 0))])
    await Promise.all([runner.close(), runner.close()])
    expect(await inFlight).toEqual(['closed'])
    expect(await codesOf([runner.execute(planOf(5, [1], 0)), runner.readBlocks([0])])).toEqual(['closed', 'closed'])
    await runner.close()
  },
)

test('a model that cannot be served gives a ModelError from a thread too', async () => {
  for (const runner of [createLocalRunner(), createWorkerRunner()]) {
    await expect(runner.load(goldenRequest('absent'))).rejects.toThrow(ModelError)
    await runner.close()
  }
})

test('after a thread dies, calls in flight and later calls are rejected', async () => {
  const cases = [
    ['throws', 'throw new Error("kernel panic")', 'kernel panic'],
    ['exits', 'process.exit(3)', 'ended with code 3'],
  ] as const
  for (const [name, body, message] of cases) {
    const runner = createWorkerRunner(scriptedWorker(name, body))
    await runner.load(goldenRequest('llama'))
    const calls = [runner.execute(planOf(0, [1], 0)), runner.readBlocks([0])]
    expect(await codesOf(calls)).toEqual(['engine_error', 'engine_error'])
    await expect(runner.execute(planOf(1, [1], 0))).rejects.toThrow(message)
    await runner.close()
  }
})

test('masks that arrive after their step has failed are not used by the next step', async () => {
  const error = "{ kind: 'runner', code: 'engine_error', isOfDevice: false, sequence: null"
  const runner = createWorkerRunner(
    scriptedWorker(
      'refuses',
      `if (call.kind === 'close') return parentPort.postMessage({ id, value: null })
  if (request === 0 && !globalThis.hasRefused) {
    globalThis.hasRefused = true
    return parentPort.postMessage({ slot: 0, error: ${error}, message: 'refused' } })
  }
  if (request.masks === undefined) return
  parentPort.postMessage({ slot: request.slot, error: ${error}, message: 'rows ' + [...request.masks.keys()] } })`,
    ),
  )
  await runner.load(goldenRequest('llama'))
  const give: ((masks: LateMasks) => void)[] = []
  const execute = (stepId: number) =>
    runner.execute(planOf(stepId, [1], 0), new Promise<LateMasks>((resolve) => give.push(resolve)))
  await expect(execute(0)).rejects.toThrow('refused')
  const second = execute(1)
  give[0]!(new Map([[7, new Uint32Array(3)]]))
  give[1]!(new Map([[2, new Uint32Array(3)]]))
  await expect(second).rejects.toThrow('rows 2')
  await runner.close()
})

test('close does not wait for a thread whose calls hang', async () => {
  const runner = createWorkerRunner(
    scriptedWorker('hangs', 'if (call.kind === "close") parentPort.postMessage({ id, value: null })'),
  )
  await runner.load(goldenRequest('llama'))
  const hanging = codesOf([runner.execute(planOf(0, [1], 0))])
  await runner.close()
  expect(await hanging).toEqual(['closed'])
})
