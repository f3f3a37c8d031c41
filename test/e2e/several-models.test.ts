/** Several models in one process: chosen by name, loaded at the start or on demand, unloaded when idle. */
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { z } from 'zod'
import { BUNDLED_MODEL } from './models.ts'
import { ServerProcess } from './server-process.ts'

const TINY = fileURLToPath(new URL('../golden/models/tiny-text', import.meta.url))
const TWO = ['--device', 'cpu', '--model', `big=${BUNDLED_MODEL}`, '--model', `small=${TINY}`]

const list = z.object({ data: z.array(z.object({ id: z.string(), kind: z.string(), state: z.string() })) })
const completion = z.object({ model: z.string(), choices: z.array(z.object({ text: z.string() })) })
const failure = z.object({ error: z.object({ message: z.string(), code: z.string().nullable() }) })

async function statesOf(server: ServerProcess): Promise<Record<string, string>> {
  const { data } = list.parse(await (await server.get('/v1/models')).json())
  return Object.fromEntries(data.filter(({ kind }) => kind === 'generation').map(({ id, state }) => [id, state]))
}

async function complete(server: ServerProcess, model?: string) {
  const response = await server.post('/v1/completions', { model, prompt: 'The', max_tokens: 4, temperature: 0 })
  expect(response.status).toBe(200)
  return { answer: completion.parse(await response.json()), traceId: response.headers.get('x-trace-id') ?? '' }
}

it('serves each by its name, with a trace that names it', async () => {
  const server = await ServerProcess.start(TWO)
  try {
    expect(await statesOf(server)).toEqual({ big: 'ready', small: 'ready' })
    const [big, small] = await Promise.all([complete(server, 'big'), complete(server, 'small')])
    expect([big.answer.model, small.answer.model]).toEqual(['big', 'small'])
    expect(big.answer.choices).not.toEqual(small.answer.choices)
    expect((await complete(server)).answer.model).toBe('big')
    const trace = await (await server.get(`/v1/traces/${small.traceId}?format=otlp`)).text()
    expect(trace).toContain('"small"')
    expect(trace).not.toContain('"big"')
    const unknown = await server.post('/v1/completions', { model: 'huge', prompt: 'The' })
    expect(unknown.status).toBe(404)
    expect(failure.parse(await unknown.json()).error).toMatchObject({
      code: 'model_not_found',
      message: expect.stringContaining('"big", "small"'),
    })
    const counted = await server.post('/tokenize', { model: 'small', prompt: 'The' })
    expect(counted.status).toBe(200)
    expect(await (await server.get('/ready')).json()).toEqual({
      status: 'ready',
      models: [
        { id: 'big', state: 'ready' },
        { id: 'small', state: 'ready' },
      ],
    })
    const metrics = await (await server.get('/metrics')).text()
    expect(metrics).toContain('miniserve_model_state{model_name="small",state="ready"} 1')
    expect(metrics).toMatch(/miniserve_iteration_tokens_total_count\{model_name="small"\} \d/)
  } finally {
    await server.stop()
  }
})

it('loads a model for its first request, unloads one that nobody uses, and outlives one that cannot be loaded', async () => {
  const broken = fileURLToPath(new URL('../golden', import.meta.url))
  const server = await ServerProcess.start([...TWO, '--model', `broken=${broken}`, '--model-idle', '1'])
  try {
    expect((await statesOf(server))['small']).toBe('on_demand')
    const [first, second] = await Promise.all([complete(server, 'small'), complete(server, 'small')])
    expect(second.answer.choices).toEqual(first.answer.choices)
    await server.waitForLog(({ msg, model }) => msg === 'model.unloaded' && model === 'small')
    expect((await statesOf(server))['small']).toBe('on_demand')
    const again = await complete(server, 'small')
    expect(again.answer.choices).toEqual(first.answer.choices)
    // One that cannot be loaded fails its own requests only.
    const response = await server.post('/v1/completions', { model: 'broken', prompt: 'The' })
    expect(response.status).toBe(503)
    expect(failure.parse(await response.json()).error).toMatchObject({ code: 'model_load_failed' })
    expect((await complete(server, 'big')).answer.model).toBe('big')
  } finally {
    await server.stop()
  }
  expect(await server.exited).toMatchObject({ code: 0 })
})
