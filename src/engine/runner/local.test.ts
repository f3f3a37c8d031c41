import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test, vi } from 'vitest'
import { goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { GREEDY } from '../../kernels/sampling.ts'
import { DeviceLostError } from '../../kernels/backend.ts'
import { Pool } from '../../kernels/cpu/pool.ts'
import { createLocalRunner } from './local.ts'
import { loadModel } from './model.ts'
import { ModelError, type ModelRequest, type StepPlan } from './runner.ts'

const golden = readGolden('llama')
const PLAN: StepPlan = {
  stepId: 1,
  blockCopies: [],
  sequences: [
    {
      tokenSource: { ids: Int32Array.from(golden.prompt) },
      startPosition: 0,
      blockTable: Int32Array.of(0, 1, 2),
      sample: [GREEDY],
      score: null,
    },
  ],
}

test('a lost device fails the steps in flight with device_lost, and the next call runs on a new one with the same pool', async () => {
  const requests: ModelRequest[] = []
  let closed = 0
  const runner = createLocalRunner(async (request, onProgress) => {
    requests.push(request)
    const model = await loadModel(request, onProgress)
    const { backend } = model
    const isFirst = requests.length === 1
    const close = backend.close.bind(backend)
    backend.close = () => {
      closed++
      return close()
    }
    if (isFirst) backend.endStep = () => Promise.reject(new DeviceLostError('unplugged'))
    return model
  })
  await runner.load(goldenRequest('llama', { numKvBlocks: null, maxNumSeqs: 1 }))
  const lost = await Promise.allSettled([runner.execute(PLAN), runner.execute({ ...PLAN, stepId: 2 })])
  for (const result of lost) {
    expect(result).toMatchObject({
      status: 'rejected',
      reason: { name: 'RunnerError', code: 'device_lost', message: 'the device was lost: unplugged' },
    })
  }
  expect((await runner.execute({ ...PLAN, stepId: 3 })).sequences[0]!.tokens).toEqual([golden.tokens[0]])
  expect(requests.map((request) => request.numKvBlocks)).toEqual([null, 16])
  await runner.close()
  expect(closed).toBe(2)
})

test('a model with a context that follows from its pool is opened again as the same model, on the same device', async () => {
  const requests: ModelRequest[] = []
  const runner = createLocalRunner(async (request, onProgress) => {
    requests.push(request)
    const model = await loadModel(request, onProgress)
    if (requests.length === 1) model.backend.endStep = () => Promise.reject(new DeviceLostError('unplugged'))
    return model
  })
  // The pool has room for 16 tokens. A request for that context would select longrope's short factors.
  const info = await runner.load(goldenRequest('phi3-longrope', { device: 'auto', threads: 1, numKvBlocks: 1 }))
  expect(info.maxModelLen).toBe(16)
  const [sequence] = PLAN.sequences
  const ids = Int32Array.from(readGolden('phi3-longrope').prompt.slice(0, 8))
  const plan = { ...PLAN, sequences: [{ ...sequence!, tokenSource: { ids }, blockTable: Int32Array.of(0) }] }
  await expect(runner.execute(plan)).rejects.toMatchObject({ code: 'device_lost' })
  expect((await runner.execute(plan)).sequences[0]!.tokens).toHaveLength(1)
  expect(requests.map(({ device }) => device)).toEqual(['auto', info.device.kind])
  await runner.close()
})

/** A mask that allows one token. */
function only(token: number): Uint32Array {
  const mask = new Uint32Array(64)
  mask[token >> 5] = 1 << (token & 31)
  return mask
}

test.each(['reference', 'cpu'] as const)(
  'a step on %s computes its layers before its masks are known, and the next step waits for it',
  async (device) => {
    const order: string[] = []
    const runner = createLocalRunner(async (request, onProgress) => {
      const model = await loadModel(request, onProgress)
      const { decoder } = model
      const [layers, outputs] = [decoder.layers.bind(decoder), decoder.outputs.bind(decoder)]
      decoder.layers = (input) => {
        order.push('layers')
        layers(input)
      }
      decoder.outputs = (...rows) => {
        order.push('outputs')
        outputs(...rows)
      }
      return model
    })
    await runner.load(goldenRequest('llama', { device, numKvBlocks: null, maxNumSeqs: 1 }))
    const unmasked = (await runner.execute({ ...PLAN, stepId: 0 })).sequences[0]!.tokens
    order.length = 0
    let give: (masks: ReadonlyMap<number, Uint32Array>) => void = () => {}
    const first = runner.execute(PLAN, new Promise((resolve) => (give = resolve)))
    const second = runner.execute({ ...PLAN, stepId: 2 })
    await new Promise((resolve) => setImmediate(resolve))
    expect(order).toEqual(['layers'])
    const allowed = (unmasked[0]! + 1) % 64
    give(new Map([[0, only(allowed)]]))
    expect((await first).sequences[0]!.tokens).toEqual([allowed])
    expect((await second).sequences[0]!.tokens).toEqual(unmasked)
    expect(order).toEqual(['layers', 'outputs', 'layers', 'outputs'])
    // Without its mask, the row is sampled all the same.
    const late = await runner.execute({ ...PLAN, stepId: 3 }, Promise.resolve(new Map()))
    expect(late.sequences[0]!.tokens).toEqual(unmasked)
    await runner.close()
  },
)

test('blocks are read and written in call order, also after a step that waits for masks', async () => {
  const runner = createLocalRunner()
  await runner.load(goldenRequest('llama', { numKvBlocks: null, maxNumSeqs: 2 }))
  const [sequence] = PLAN.sequences
  const elsewhere = { ...PLAN, sequences: [{ ...sequence!, blockTable: Int32Array.of(3, 4, 5) }] }
  const blank = await runner.readBlocks([3])
  let give: (masks: ReadonlyMap<number, Uint32Array>) => void = () => {}
  const waiting = runner.execute(PLAN, new Promise((resolve) => (give = resolve)))
  const before = runner.readBlocks([3])
  const behind = runner.execute({ ...elsewhere, stepId: 2 })
  const [written, cleared] = [runner.readBlocks([3]), runner.writeBlocks([3], blank)]
  const [gone, last] = [runner.readBlocks([3]), runner.execute({ ...elsewhere, stepId: 3 })]
  give(new Map())
  await Promise.all([waiting, behind, cleared, last])
  expect(await before).toEqual(blank)
  expect(await written).not.toEqual(blank)
  expect(await gone).toEqual(blank)
  expect(await runner.readBlocks([3])).toEqual(await written)
  await runner.close()
})

test('limits that cannot be served are refused, and the error says what to change', async () => {
  const load = (overrides: Partial<ModelRequest>) => async () =>
    createLocalRunner().load(goldenRequest('llama', overrides))
  await expect(load({ maxModelLen: 257 })).rejects.toThrow("--max-model-len 257 is more than the model's 256")
  await expect(load({ maxModelLen: 256, numKvBlocks: 10 })).rejects.toThrow(/Raise --num-kv-blocks to 16/)
  await expect(load({ maxNumSeqs: 100 })).rejects.toThrow(ModelError)
  await expect(load({ adapter: 'a card' })).rejects.toThrow(/^device reference: expected the adapter a card, found /)
  await expect(load({ path: '/nowhere' })).rejects.toThrow('/nowhere does not exist')
})

test('an adapter for a layer that the model lacks leaves no backend open', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-adapter-'))
  const close = vi.spyOn(Pool.prototype, 'close')
  try {
    cpSync(fileURLToPath(new URL('../../../test/golden/adapters/llama-some', import.meta.url)), folder, {
      recursive: true,
    })
    const file = join(folder, 'adapter_model.safetensors')
    writeFileSync(file, readFileSync(file, 'latin1').replaceAll('layers.1.mlp', 'layers.7.mlp'), 'latin1')
    const request = goldenRequest('llama', { device: 'cpu', adapters: [{ name: 'style', path: folder }] })
    await expect(loadModel(request)).rejects.toThrow(/layers\.7\.mlp\.down_proj: .* has no linear layer of this name/)
    expect(close).toHaveBeenCalledOnce()
  } finally {
    close.mockRestore()
    rmSync(folder, { recursive: true })
  }
})

test('a model length that was not requested shrinks to the pool; fingerprints of other weights and layouts differ', async () => {
  const infoOf = async (overrides: Partial<ModelRequest>, name = 'llama') => {
    const runner = createLocalRunner()
    const info = await runner.load(goldenRequest(name, overrides))
    await runner.close()
    return info
  }
  const small = await infoOf({ numKvBlocks: 10 })
  expect(small.maxModelLen).toBe(160)
  const whole = await infoOf({ numKvBlocks: null, maxNumSeqs: 3 })
  expect([whole.maxModelLen, whole.numKvBlocks, whole.blockBytes]).toEqual([256, 48, 2 * 2 * 16 * 2 * 8 * 4])
  expect(whole.fingerprint).toBe(small.fingerprint)
  const others = await Promise.all([infoOf({ blockSize: 8 }), infoOf({}, 'llama-sharded')])
  expect(new Set([whole, ...others].map((info) => info.fingerprint)).size).toBe(3)
})
