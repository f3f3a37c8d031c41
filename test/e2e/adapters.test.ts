/** LoRA adapters through the real process and OpenAI's client: chosen by `model`, beside each other and beside their model. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

const golden = (name: string): string => fileURLToPath(new URL(`../golden/${name}`, import.meta.url))
const TINY = ['--device', 'cpu', '--threads', '2', '--model', `tiny=${golden('models/tiny-text')}`]
const ADAPTERS = ['a', 'b'].map((name) => `${name}=${golden(`adapters/tiny-text-${name}`)}`)
const BOTH = ADAPTERS.flatMap((adapter) => ['--lora', adapter])

/** A KV pool too small for four long sequences: they take turns. */
let server: ServerProcess
let client: OpenAI
beforeAll(async () => {
  server = await ServerProcess.start([...TINY, ...BOTH, '--num-kv-blocks', '12', '--max-model-len', '160'])
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
})
afterAll(async () => {
  await server?.stop()
})

interface Expected {
  readonly prompt: number[]
  readonly tokens: number[]
  readonly margins: number[]
}
const expected = (file: string): Expected => JSON.parse(readFileSync(golden(file), 'utf8')) as Expected

/** Greedy token ids after a prompt of ids. */
async function complete(model: string, prompt: number[], more: object = {}) {
  const extensions = { return_token_ids: true, ignore_eos: true, ...more }
  const answer = await client.completions.create({ model, prompt, temperature: 0, max_tokens: 12, ...extensions })
  const [choice] = answer.choices as unknown as { token_ids: number[]; text: string }[]
  return { answer, ids: choice?.token_ids ?? [], cached: answer.usage?.prompt_tokens_details?.cached_tokens ?? 0 }
}

it('serves adapters and their model side by side, each with what PEFT gives', async () => {
  const { data } = await client.models.list()
  expect(data.filter((model) => 'kind' in model && model.kind === 'generation')).toMatchObject([
    { id: 'tiny', parent: null },
    { id: 'a', parent: 'tiny', root: 'tiny', max_model_len: 160 },
    { id: 'b', parent: 'tiny', root: 'tiny' },
  ])
  const rows = [
    ['tiny', expected('models/tiny-text/golden.json')],
    ['a', expected('adapters/tiny-text-a.json')],
    ['b', expected('adapters/tiny-text-b.json')],
  ] as const
  // All of them at once, four times each: batches mix them, with run-ahead and drafts.
  const jobs = rows.flatMap((row) => [row, row, row, row])
  const answers = await Promise.all(jobs.map(([model, { prompt }]) => complete(model, prompt)))
  for (const [i, [model, { tokens, margins }]] of jobs.entries()) {
    const clear = margins.findIndex((margin) => margin < 0.01)
    const count = Math.min(12, clear < 0 ? 12 : clear)
    expect(answers[i]?.ids.slice(0, count), model).toEqual(tokens.slice(0, count))
    expect(answers[i]?.answer.model).toBe(model)
  }
  // The same prompt for each: what one has computed is not the other's.
  const prompt = Array.from({ length: 64 }, (_, i) => 6 + ((i * 7) % 300))
  const alone: number[][] = []
  for (const model of ['tiny', 'a', 'b']) {
    const first = await complete(model, prompt)
    expect(first.cached, model).toBe(0)
    const second = await complete(model, prompt)
    expect(second.cached, model).toBeGreaterThanOrEqual(48)
    expect(second.ids).toEqual(first.ids)
    alone.push(first.ids)
  }
  expect(new Set(alone.map(String)).size).toBe(3)
  const chat = await client.chat.completions.create({
    model: 'b',
    messages: [{ role: 'user', content: 'Hi' }],
    max_tokens: 4,
  })
  expect(chat.model).toBe('b')
  await expect(client.completions.create({ model: 'c', prompt: 'x' })).rejects.toThrow(/lists "tiny", "a", "b"/)
  const response = await server.post('/v1/completions', { model: 'a', prompt: 'The', max_tokens: 2 })
  const trace = await (await server.get(`/v1/traces/${response.headers.get('x-trace-id')}?format=otlp`)).json()
  const attributes = JSON.stringify(trace)
  expect(attributes).toContain('{"key":"llm.model","value":{"stringValue":"a"}}')
  expect(attributes).toContain('{"key":"llm.model.parent","value":{"stringValue":"tiny"}}')
  const metrics = await (await server.get('/metrics')).text()
  expect(metrics).toMatch(/miniserve_generation_tokens_total\{model_name="a"\} \d/)
  expect(metrics).toMatch(
    /^miniserve_lora_requests_info\{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""\} \d/m,
  )
})

it('computes preempted sequences again with their adapters', async () => {
  const prompt = Array.from({ length: 40 }, (_, i) => 6 + ((i * 11) % 300))
  const models = ['tiny', 'a', 'b', 'a']
  const long = { max_tokens: 60 }
  const alone: number[][] = []
  for (const model of models) alone.push((await complete(model, prompt, long)).ids)
  const together = await Promise.all(models.map((model) => complete(model, prompt, long)))
  expect(together.map(({ ids }) => ids)).toEqual(alone)
  expect(await (await server.get('/metrics')).text()).toMatch(/num_preemptions_total(\{[^}]*\})? [1-9]/)
})
