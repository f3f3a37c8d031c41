/** What an answer is held to, through the whole engine: a thought and then the schema, calls or the schema, calls that no stop string cuts. */
import { afterAll, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { openScriptedEngine } from '../../test/engine/scripted-engine.ts'
import type { EngineOptions } from './engine.ts'
import type { Engine, GenerationRequest, ToolUse } from './request.ts'

const open: Engine[] = []
afterAll(async () => {
  for (const engine of open) await engine.close()
})

function start(special: readonly string[], options: Partial<EngineOptions> = {}, eos = '<|end|>'): Engine {
  const { engine } = openScriptedEngine(
    { toolCallParser: 'hermes', reasoningParser: 'qwen3', ...options },
    { numBlocks: 256, blockSize: 16, vocabSize: 272, eosTokenIds: [EOS] },
    createByteTokenizer(special, eos),
  )
  open.push(engine)
  return engine
}

async function ask(engine: Engine, seed: number, fields: Partial<GenerationRequest>) {
  const { events, ...result } = await collect(
    engine,
    request({ maxTokens: 400, ...fields, sampling: { temperature: 1, seed } }),
  )
  const tokens = events.flatMap((event) => (event.type === 'token' ? [event] : []))
  return {
    ...result,
    text: tokens.map(({ text }) => text).join(''),
    reasoning: tokens.map(({ reasoning }) => reasoning ?? '').join(''),
    calls: tokens.flatMap(({ toolCalls }) => toolCalls ?? []),
    events,
  }
}

const schema = { type: 'object', properties: { a: { enum: ['x', 'y'] } }, required: ['a'], additionalProperties: false }
const structured = { kind: 'json_schema', schema } as const
const tool = { type: 'function', function: { name: 'stop', parameters: {} } }
const auto: ToolUse = { tools: [tool], choice: 'auto', parallel: false }

it('a thought is free up to its budget, and the answer behind it holds to the schema', async () => {
  const engine = start(['<think>', '</think>'])
  let numThoughts = 0
  for (let seed = 1; seed <= 12; seed++) {
    const answer = await ask(engine, seed, { structured, separatesReasoning: true, thinkingBudget: 20 })
    expect(['x', 'y']).toContain((JSON.parse(answer.text) as { a: string }).a)
    const finished = answer.events.find((event) => event.type === 'finished')
    const counted = finished?.type === 'finished' ? finished.counters.numReasoningTokens : 0
    expect(counted).toBeLessThanOrEqual(22)
    if (answer.reasoning !== '') numThoughts++
  }
  expect(numThoughts).toBeGreaterThan(0)
})

it('tools beside a schema: a call or the schema, whether calls begin with a token of their own or not', async () => {
  for (const special of [['<tool_call>'], []]) {
    const engine = start(special)
    let [numCalls, numAnswers] = [0, 0]
    for (let seed = 1; seed <= 24; seed++) {
      const answer = await ask(engine, seed, { structured, toolUse: auto })
      if (answer.calls.length > 0) {
        expect(answer.calls[0]?.name).toBe('stop')
        expect(answer.calls.map(({ arguments: json }) => json).join('')).toBe('{}')
        expect(answer.text.trim()).toBe('')
        numCalls++
      } else {
        expect(['x', 'y']).toContain((JSON.parse(answer.text) as { a: string }).a)
        numAnswers++
      }
    }
    expect(numCalls).toBeGreaterThan(0)
    expect(numAnswers).toBeGreaterThan(0)
  }
})

it('a call that has to be made wins over the schema, and no stop string cuts it', async () => {
  const answer = await ask(start(['<tool_call>']), 1, {
    structured,
    toolUse: { ...auto, choice: { name: 'stop' } },
    stop: ['name', '{'],
  })
  expect(answer.calls.map(({ arguments: json }) => json).join('')).toBe('{}')
  expect(answer.reasons).toEqual(['stop'])
})

const HARMONY = ['<|start|>', '<|channel|>', '<|message|>', '<|end|>', '<|call|>', '<|constrain|>']

it('messages with channels: a thought or none, and then the schema or a call, made of the tokens that the model knows', async () => {
  const engine = start(HARMONY, { toolCallParser: 'openai', reasoningParser: 'openai_gptoss' }, '<|return|>')
  const seen = { thoughts: 0, direct: 0, calls: 0, answers: 0 }
  for (let seed = 1; seed <= 24; seed++) {
    const answer = await ask(engine, seed, { structured, toolUse: auto, separatesReasoning: true, thinkingBudget: 12 })
    const tokens = answer.events.flatMap((event) => (event.type === 'token' ? event.tokenIds : []))
    expect(tokens[0]).toBe(260)
    expect(tokens).toContain(261)
    if (tokens.includes(262)) seen.thoughts++
    else seen.direct++
    if (answer.calls.length > 0) {
      expect(answer.calls.map(({ arguments: json }) => json).join('')).toBe('{}')
      expect(answer.text.trim()).toBe('')
      seen.calls++
    } else {
      expect(['x', 'y']).toContain((JSON.parse(answer.text) as { a: string }).a)
      seen.answers++
    }
  }
  expect(Math.min(...Object.values(seen)), JSON.stringify(seen)).toBeGreaterThan(0)
})

it('what is held back at the end of an answer is part of it', async () => {
  const engine = start([], { reasoningParser: 'qwen3' })
  for (const text of ['<thi', ' \n']) {
    const answer = await ask(engine, 1, { structured: { kind: 'choice', choices: [text] }, separatesReasoning: true })
    expect(answer).toMatchObject({ reasoning: '', text })
  }
})
