/** `miniserve eval` and `miniserve bench` as people run them; what they compute is held against the server's own log-probabilities. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MAIN, ServerProcess } from './server-process.ts'

const FLAGS = ['--device', 'reference']
let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-eval-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function miniserve(...args: readonly string[]) {
  return spawnSync(process.execPath, [MAIN, ...args, ...FLAGS], { cwd: folder, encoding: 'utf8' })
}

function file(name: string, text: string): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const TEXT = 'The river runs through the old town and meets the sea south of the lake. In autumn, the water rises.'

describe('eval', () => {
  it('gives the perplexity that the log-probabilities of the same text come to', async () => {
    const server = await ServerProcess.start(FLAGS)
    const body = { prompt: TEXT, max_tokens: 0, echo: true, logprobs: 0 }
    const answer = (await (await server.post('/v1/completions', body)).json()) as {
      choices: [{ logprobs: { token_logprobs: (number | null)[] } }]
    }
    await server.stop()
    const scores = answer.choices[0].logprobs.token_logprobs.filter((score) => score !== null)
    const expected = Math.exp(-scores.reduce((sum, score) => sum + score, 0) / scores.length)
    const { status, stdout } = miniserve('eval', 'perplexity', file('text.txt', TEXT))
    expect(status).toBe(0)
    const result = JSON.parse(stdout) as { perplexity: number; tokens: number; seconds: number }
    expect(result.tokens).toBe(scores.length)
    expect(result.perplexity).toBeCloseTo(expected, 5)
  })

  it('scores the second half of each window of a long text', () => {
    const path = file('long.txt', `${TEXT} `.repeat(8))
    const { stdout } = miniserve('eval', 'perplexity', path, '--context', '32')
    const result = JSON.parse(stdout) as { perplexity: number; tokens: number }
    // Of 32 tokens, 31 have a score; the first 16 scores are context.
    expect(result.tokens % 15).toBe(0)
    expect(result.perplexity).toBeGreaterThan(1)
  })

  it('counts right answers, and names the line that is none', () => {
    const items = [
      { prompt: 'The river runs through the old', choices: [' town and meets the sea.', ' qx zv kj qq.'], answer: 0 },
      { prompt: 'The river runs through the old ', choices: ['qx zv kj qq.', 'town and meets the sea.'], answer: 1 },
      { prompt: 'The river runs through the old', choices: [' qx zv kj qq.', ' town and meets the sea.'], answer: 0 },
    ]
    const lines = items.map((item) => JSON.stringify(item)).join('\n')
    const { stdout } = miniserve('eval', 'choices', file('items.jsonl', lines))
    expect(JSON.parse(stdout)).toEqual({ accuracy: 2 / 3, accuracy_norm: 2 / 3, items: 3 })
    const wrong = miniserve(
      'eval',
      'choices',
      file('wrong.jsonl', `${lines}\n{"prompt": "x", "choices": ["a"], "answer": 0}`),
    )
    expect(wrong.status).toBe(1)
    expect(wrong.stderr).toMatch(/wrong\.jsonl:4: choices: expected two or more$/m)
  })
})

describe('bench', () => {
  it('measures what it is asked to, as a table and as JSON', () => {
    const table = miniserve('bench', '-p', '16', '-n', '4', '-r', '2')
    expect(table.status).toBe(0)
    expect(table.stdout).toMatch(/\| model \| size \| backend \| test \| t\/s \|/)
    expect(table.stdout).toMatch(/\| reference \| pp16 \| \d+\.\d\d ± \d+\.\d\d \|\n.*\| tg4 \|/)
    const { stdout } = miniserve('bench', '-p', '0', '-n', '4', '-r', '2', '--json')
    const { results } = JSON.parse(stdout) as { results: { test: string; samples: number[] }[] }
    expect(results.map(({ test, samples }) => [test, samples.length])).toEqual([['tg4', 2]])
    expect(miniserve('bench', '-r', '0').stderr).toContain('-r: expected a whole number of at least 1')
  })
})
