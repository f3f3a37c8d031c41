import { expect, test } from 'vitest'
import { type ModelInfo, type ModelRequest, type Runner, RunnerError, type RunnerProblem } from './runner.ts'
import { type MortalRunner, superviseRunner } from './supervisor.ts'

const REQUEST = { path: 'model', device: 'auto', numKvBlocks: null, maxModelLen: null } as ModelRequest
const INFO = {
  numKvBlocks: 12,
  maxModelLen: 99,
  maxNumBatchedTokens: 64,
  device: { kind: 'webgpu', adapter: 'a card' } as ModelInfo['device'],
  fingerprint: 'a',
  adapters: [],
} satisfies Partial<ModelInfo>
const PLAN = { stepId: 0, blockCopies: [], sequences: [] }

/** Runners that break or fail to open on command. */
function fleet(
  failsToLoad: (index: number) => boolean = () => false,
  infoOf: (index: number) => Partial<ModelInfo> = () => ({}),
) {
  const made: { readonly requests: ModelRequest[]; breakDown(message: string): void; isClosed: boolean }[] = []
  const create = (): MortalRunner => {
    const index = made.length
    let breakDown: (error: Error) => void = () => {}
    const broken = new Promise<Error>((resolve) => (breakDown = resolve))
    const state = {
      requests: [] as ModelRequest[],
      breakDown: (text: string) => breakDown(new Error(text)),
      isClosed: false,
    }
    made.push(state)
    let poolId = 0
    return {
      broken,
      load: async (request) => {
        state.requests.push(request)
        poolId = request.poolId ?? 0
        if (failsToLoad(index)) throw new Error(`no adapter for ${index}`)
        return { ...INFO, ...infoOf(index) } as ModelInfo
      },
      execute: async ({ stepId }) => ({
        stepId,
        poolId,
        sequences: [],
        gpuMicros: null,
        kernels: null,
        computeMs: index,
      }),
      readBlocks: async () => new Uint8Array(1),
      writeBlocks: async () => {},
      close: async () => {
        state.isClosed = true
      },
    }
  }
  return { made, create }
}

/** Collects the reported problems, and waits for the next of a kind. */
function listen(runner: Runner) {
  const problems: (RunnerProblem | null)[] = []
  let waiting: { matches: (problem: RunnerProblem | null) => boolean; resolve: () => void }[] = []
  runner.onProblem?.((problem) => {
    problems.push(problem)
    const [hit, rest] = [waiting.filter(({ matches }) => matches(problem)), waiting.filter((w) => !w.matches(problem))]
    waiting = rest
    for (const { resolve } of hit) resolve()
  })
  const next = (matches: (problem: RunnerProblem | null) => boolean) =>
    new Promise<void>((resolve) => waiting.push({ matches, resolve }))
  return { problems, next }
}

test('a broken runner is closed and replaced by one with the same pool size and another pool number; calls wait for it', async () => {
  const { made, create } = fleet()
  const runner = superviseRunner(create, 10)
  const { problems, next } = listen(runner)
  await runner.load(REQUEST)
  expect(await runner.execute(PLAN)).toMatchObject({ poolId: 0, computeMs: 0 })
  const isBroken = next((problem) => problem !== null)
  made[0]!.breakDown('unplugged')
  await isBroken
  await expect(runner.readBlocks([0])).rejects.toMatchObject({ code: 'pool_replaced' })
  expect(await runner.execute(PLAN)).toMatchObject({ poolId: 10, computeMs: 1 })
  expect(made.map(({ isClosed }) => isClosed)).toEqual([true, false])
  expect(made[1]!.requests[0]).toMatchObject({
    device: 'webgpu',
    adapter: 'a card',
    numKvBlocks: 12,
    maxNumBatchedTokens: 64,
    maxModelLen: null,
  })
  expect(problems.map((problem) => problem && [problem.reason, problem.isFatal])).toEqual([
    ['unplugged; it is being restarted', false],
    null,
  ])
  await runner.close()
  expect(made[1]!.isClosed).toBe(true)
})

test('while a runner cannot be opened again, calls are rejected at once with the reason', async () => {
  const { made, create } = fleet((index) => index === 1 || index === 2)
  const runner = superviseRunner(create)
  const { problems, next } = listen(runner)
  await runner.load(REQUEST)
  const isFatal = next((problem) => problem?.isFatal === true)
  const isMended = next((problem) => problem === null)
  made[0]!.breakDown('unplugged')
  await isFatal
  await expect(runner.execute(PLAN)).rejects.toMatchObject({
    code: 'device_lost',
    message: 'unplugged; it could not be restarted (attempt 1): no adapter for 1',
  })
  await isMended
  expect(await runner.execute(PLAN)).toMatchObject({ poolId: 3 })
  expect(problems.filter((problem) => problem?.isFatal === true)).toHaveLength(2)
  expect(made.slice(0, 3).every(({ isClosed }) => isClosed)).toBe(true)
  await runner.close()
})

test.each([
  ['weights', { fingerprint: 'b' }],
  ['adapter', { adapters: [{ name: 'style', digest: 'other', rank: 4 }] }],
])('a replacement with another %s serves nobody, until the files are as they were', async (_, changed) => {
  const { made, create } = fleet(undefined, (index) => (index === 1 ? changed : {}))
  const runner = superviseRunner(create)
  const { problems, next } = listen(runner)
  await runner.load(REQUEST)
  const isFatal = next((problem) => problem?.isFatal === true)
  const isMended = next((problem) => problem === null)
  made[0]!.breakDown('unplugged')
  await isFatal
  expect(made[1]!.isClosed).toBe(true)
  await expect(runner.execute(PLAN)).rejects.toThrow(
    /model is not the model that the server started with: .*Restart the server/,
  )
  await isMended
  expect(await runner.execute(PLAN)).toMatchObject({ computeMs: 2 })
  expect(problems.at(-1)).toBe(null)
  await runner.close()
})

test('a failed load rejects its call; close ends the attempts to recover', async () => {
  const failing = superviseRunner(fleet(() => true).create)
  await expect(failing.load(REQUEST)).rejects.toThrow('no adapter for 0')
  await failing.close()
  const { made, create } = fleet((index) => index > 0)
  const runner = superviseRunner(create)
  const { next } = listen(runner)
  await runner.load(REQUEST)
  const isFatal = next((problem) => problem?.isFatal === true)
  made[0]!.breakDown('unplugged')
  await isFatal
  await runner.close()
  const numMade = made.length
  await expect(runner.execute(PLAN)).rejects.toThrow(RunnerError)
  expect(made).toHaveLength(numMade)
  expect(made.every(({ isClosed }) => isClosed)).toBe(true)
})
