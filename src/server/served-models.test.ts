import { afterEach, expect, it, vi } from 'vitest'
import { openScriptedEngine } from '../../test/engine/scripted-engine.ts'
import { type ReadyModel, type ModelOffer, ServedModels, type ServedModelsOptions } from './served-models.ts'

const opened: ServedModels[] = []
afterEach(async () => {
  vi.useRealTimers()
  await Promise.all(opened.splice(0).map((models) => models.close()))
})

const nowhere = (): undefined => undefined
const never = new AbortController().signal

/** Models of 10 bytes each, in a host that has room for `numFit` of them. */
function withRoomFor(numFit: number, names: readonly string[], options: Partial<ServedModelsOptions> = {}) {
  const log: string[] = []
  let inMemory = 0
  const loads: string[] = []
  const models = new ServedModels({
    idleMs: null,
    version: '1',
    subscribersOf: () => [],
    availableBytes: () => (numFit - inMemory) * 13,
    onUnloaded: (model, reason) => log.push(`${model} ${reason}`),
    ...options,
  })
  opened.push(models)
  const offerOf = (name: string): ModelOffer => ({
    name,
    weightBytes: () => Promise.resolve(10),
    wantsRoom: () => false,
    load(signal) {
      signal.throwIfAborted()
      loads.push(name)
      inMemory += 1
      const { engine } = openScriptedEngine({ modelName: name })
      const close = async (): Promise<void> => {
        await engine.close()
        inMemory -= 1
      }
      const proxy = new Proxy(engine, {
        get: (target, key) => {
          if (key === 'modelInfo') return { ...target.modelInfo, device: { kind: 'webgpu' } }
          const value: unknown = key === 'close' ? close : Reflect.get(target, key)
          return typeof value === 'function' ? (value as (...all: unknown[]) => unknown).bind(target) : value
        },
      })
      return Promise.resolve({ engine: proxy, samplingDefaults: {}, promptTemplate: null } satisfies ReadyModel)
    },
  })
  for (const name of names) models.offer(offerOf(name))
  const states = () => Object.fromEntries(models.describe().map(({ name, state }) => [name, state]))
  return { models, log, loads, states }
}

it('loads a model once, however many ask, and answers the first where none is named', async () => {
  const { models, loads, states } = withRoomFor(3, ['a', 'b'])
  expect(states()).toEqual({ a: 'on_demand', b: 'on_demand' })
  const uses = await Promise.all([undefined, 'a', 'a'].map((name) => models.use(name, never, nowhere)))
  expect(uses.map(({ engine }) => engine.modelName)).toEqual(['a', 'a', 'a'])
  expect(loads).toEqual(['a'])
  expect(uses[0]?.fingerprint).toMatch(/^fp_[0-9a-f]{10}$/)
  await expect(models.use('c', never, () => '/v1/rerank')).rejects.toMatchObject({
    code: 'model_not_found',
    message: expect.stringContaining('it is a model of POST /v1/rerank'),
  })
  await expect(models.use('c', never, nowhere)).rejects.toThrow('GET /v1/models lists "a", "b"')
})

it('unloads the least recently used of the idle ones where memory is short, and none that is in use', async () => {
  const { models, log, states } = withRoomFor(2, ['a', 'b', 'c', 'd'])
  const a = await models.use('a', never, nowhere)
  const b = await models.use('b', never, nowhere)
  a.release()
  b.release()
  const again = await models.use('a', never, nowhere)
  const c = await models.use('c', never, nowhere)
  expect(log).toEqual(['b memory'])
  // Both are in use: the host has to do without room.
  const d = await models.use('d', never, nowhere)
  expect(log).toEqual(['b memory'])
  expect(states()).toEqual({ a: 'ready', b: 'on_demand', c: 'ready', d: 'ready' })
  for (const use of [again, c, d]) use.release()
  // Released twice counts once.
  d.release()
  await models.use('b', never, nowhere)
  expect(log.slice(1).toSorted()).toEqual(['a memory', 'c memory'])
})

it('unloads a model that nobody has used for a while, and not one that is used', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  const { models, log, states } = withRoomFor(2, ['a'], { idleMs: 20_000 })
  const use = await models.use('a', never, nowhere)
  await vi.advanceTimersByTimeAsync(60_000)
  expect(states()).toEqual({ a: 'ready' })
  use.release()
  await vi.advanceTimersByTimeAsync(19_000)
  expect(states()).toEqual({ a: 'ready' })
  await vi.advanceTimersByTimeAsync(2_000)
  vi.useRealTimers()
  await vi.waitFor(() => expect(log).toEqual(['a idle']))
  expect(states()).toEqual({ a: 'on_demand' })
  expect((await models.use('a', never, nowhere)).engine.stats().numRunning).toBe(0)
})

it('says that a model cannot be loaded, and tries again at the next request', async () => {
  const failures: unknown[] = []
  const { models } = withRoomFor(2, ['a'], { onLoadFailed: (_, error) => failures.push(error) })
  let numTries = 0
  models.offer({
    name: 'broken',
    weightBytes: () => Promise.resolve(null),
    wantsRoom: () => false,
    load: () => Promise.reject(new Error(`try ${++numTries} of /secret/path`)),
  })
  for (const _ of [1, 2]) {
    const failed = models.use('broken', never, nowhere)
    await expect(failed).rejects.toMatchObject({ code: 'model_load_failed' })
    await expect(failed).rejects.not.toThrow('secret')
  }
  expect(failures).toHaveLength(2)
  expect((await models.use('a', never, nowhere)).engine.modelName).toBe('a')
})

it('a device that is full makes room for a model, a broken file does not', async () => {
  const { models, log, states } = withRoomFor(3, ['a', 'b'])
  for (const name of ['a', 'b']) (await models.use(name, never, nowhere)).release()
  const offer = (name: string, wantsRoom: boolean) =>
    models.offer({
      name,
      weightBytes: () => Promise.resolve(null),
      wantsRoom: () => wantsRoom,
      load: () => Promise.reject(new Error('no')),
    })
  offer('broken', false)
  await expect(models.use('broken', never, nowhere)).rejects.toMatchObject({ code: 'model_load_failed' })
  expect(states()).toMatchObject({ a: 'ready', b: 'ready' })
  offer('large', true)
  await expect(models.use('large', never, nowhere)).rejects.toMatchObject({ code: 'model_load_failed' })
  expect(log).toEqual(['a memory', 'b memory'])
})

it('a caller that goes away does not end the load that others wait for', async () => {
  const { models, loads } = withRoomFor(2, ['a'])
  const gone = new AbortController()
  const first = models.use('a', gone.signal, nowhere)
  const second = models.use('a', never, nowhere)
  gone.abort(new Error('gone'))
  await expect(first).rejects.toThrow('gone')
  expect((await second).engine.modelName).toBe('a')
  expect(loads).toEqual(['a'])
})

it('an engine whose end fails makes room all the same', async () => {
  const { models, log, states } = withRoomFor(2, ['b'])
  const { engine } = openScriptedEngine({ modelName: 'a' })
  const failing = new Proxy(engine, {
    get: (target, key) => {
      if (key === 'close') return () => engine.close().then(() => Promise.reject(new Error('the device is gone')))
      if (key === 'modelInfo') return { ...target.modelInfo, device: { kind: 'webgpu' } }
      const value: unknown = Reflect.get(target, key)
      return typeof value === 'function' ? (value as (...all: unknown[]) => unknown).bind(target) : value
    },
  })
  models.offer({
    name: 'a',
    weightBytes: () => Promise.resolve(10),
    wantsRoom: () => false,
    load: () => Promise.resolve({ engine: failing, samplingDefaults: {}, promptTemplate: null }),
  })
  ;(await models.use('a', never, nowhere)).release()
  let isFull = true
  models.offer({
    name: 'c',
    weightBytes: () => Promise.resolve(null),
    wantsRoom: () => true,
    load: async () => {
      if (isFull) {
        isFull = false
        throw new Error('no room')
      }
      const { engine: loaded } = openScriptedEngine({ modelName: 'c' })
      return { engine: loaded, samplingDefaults: {}, promptTemplate: null }
    },
  })
  const use = await models.use('c', never, nowhere)
  expect(use.engine.modelName).toBe('c')
  expect(log).toEqual(['a memory'])
  expect(states()).toMatchObject({ a: 'on_demand', c: 'ready' })
})
