/** A model whose layers keep a state for each sequence, served by the real process to many at once with memory for few. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { goldenPath } from '../golden/golden.ts'
import { ServerProcess } from './server-process.ts'

interface Completion {
  readonly choices: readonly { readonly text: string }[]
  readonly usage: { readonly prompt_tokens_details: { readonly cached_tokens: number } }
}

const FLAGS = ['--model', goldenPath('hybrid-text'), '--device', 'cpu', '--max-num-seqs', '6']
/** Of ten texts that run to 120 tokens, as many as four fit. */
const SHORT = ['--num-kv-blocks', '32', '--max-num-batched-tokens', '48']

let alone: ServerProcess
let crowded: ServerProcess
beforeAll(async () => {
  alone = await ServerProcess.start([...FLAGS, '--no-prefix-caching', '--run-ahead', '0'])
  crowded = await ServerProcess.start([...FLAGS, ...SHORT])
}, 60_000)
afterAll(async () => {
  for (const server of [alone, crowded]) {
    server.signal('SIGTERM')
    await server.exited
  }
})

const BOUND = { guided_regex: '[a-z ]{70,}' }

async function complete(server: ServerProcess, prompt: string, isBound = false): Promise<Completion> {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      prompt,
      max_tokens: 80,
      ...(isBound ? BOUND : { ignore_eos: true }),
      temperature: 0.7,
      seed: 5,
    }),
  })
  expect(response.status).toBe(200)
  return (await response.json()) as Completion
}

it('gives each client the text it would get alone, with preemption, shared prefixes and grammars', async () => {
  const shared =
    'The river runs past the old mill and the bread is still warm. She said that the train leaves at seven. '
  const prompts = ['How many birds?', 'A good answer', 'We measured', 'Naïve café', 'twelve of them'].map(
    (end) => shared + end,
  )
  const expected: string[] = []
  for (const prompt of prompts) expected.push((await complete(alone, prompt)).choices[0]!.text)
  // The second shows where the texts part; from then on the beginning is there.
  for (const i of [0, 1]) expect((await complete(crowded, prompts[i]!)).choices[0]!.text).toBe(expected[i])
  expect((await complete(crowded, prompts[2]!)).usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(15)
  const bound: string[] = []
  for (const prompt of prompts) bound.push((await complete(alone, prompt, true)).choices[0]!.text)
  expect(bound[0]).toMatch(/^[a-z ]{70,}$/)
  const numPreemptions = async (): Promise<number> => {
    const metrics = await (await fetch(`${crowded.url}/metrics`)).text()
    return Number(/^miniserve_num_preemptions_total\{[^}]*\} (\d+)/m.exec(metrics)?.[1])
  }
  // On a busy machine the requests may arrive so far apart that there is room for all.
  for (let round = 0; round === 0 || (round < 6 && (await numPreemptions()) === 0); round++) {
    const requests = [
      ...prompts.map((prompt) => complete(crowded, prompt)),
      ...prompts.map((prompt) => complete(crowded, prompt, true)),
    ]
    const answers = await Promise.all(requests)
    expect(answers.map(({ choices }) => choices[0]!.text)).toEqual([...expected, ...bound])
  }
  expect(await numPreemptions()).toBeGreaterThan(0)
})
