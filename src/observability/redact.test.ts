import { describe, expect, it } from 'vitest'
import { redact } from './redact.ts'

const CANARY = 'CANARY-5f1d'

class Failure extends Error {
  override readonly name = 'Failure'
  readonly code = 'device_lost'
  readonly prompt = CANARY
}

const circular: Record<string, unknown> = { prompt: CANARY, count: 1 }
circular.self = circular

describe('redact', () => {
  it.each([
    [
      'content keys in any case',
      { Prompt: CANARY, user_prompt: CANARY, COMPLETION: CANARY, messages: [CANARY], inputText: CANARY },
    ],
    ['nested objects', { a: { b: { c: { prompts: { d: CANARY } } } } }],
    [
      'arrays, maps and sets',
      { list: [{ text: CANARY }], map: new Map([['text', CANARY]]), set: new Set([{ message: 1, prompt: CANARY }]) },
    ],
    [
      'errors with their causes',
      { error: new Failure(CANARY, { cause: new Error(CANARY, { cause: { text: CANARY } }) }) },
    ],
    [
      'text under names that nobody listed',
      { query: CANARY, content: CANARY, document: { text: CANARY }, question: [CANARY] },
    ],
    ['frames that a message makes up', { error: new Error(`x\n    at ${CANARY} (/a/src/b.ts:1:1)`) }],
    ['stacks', { error: Object.assign(new Error('x'), { stack: CANARY }) }],
    ['objects that serialise themselves', { value: { toJSON: () => CANARY } }],
    ['functions and symbols', { fn: () => CANARY, symbol: Symbol(CANARY) }],
    ['bytes', { bytes: Buffer.from(CANARY), array: new TextEncoder().encode(CANARY) }],
    ['circles', { circular }],
    ['numeric keys that hold no number', { prompt_tokens: CANARY, completion_tokens: { value: CANARY } }],
  ])('drops %s', (_, fields) => {
    expect(JSON.stringify(redact(fields))).not.toContain(CANARY)
  })

  it('keeps what is allowed', () => {
    expect(
      redact({
        prompt_tokens: 3,
        completion_tokens: 0,
        route: '/v1/completions',
        error: { 'llm.tokens.in': 4 },
        none: null,
        finish_reasons: [1, 'a'],
        share: 0.5,
      }),
    ).toEqual({
      prompt_tokens: 3,
      completion_tokens: 0,
      route: '/v1/completions',
      error: { 'llm.tokens.in': 4 },
      none: null,
      finish_reasons: [1, 'a'],
      share: 0.5,
    })
    const frames = [expect.stringMatching(/^at .*redact\.test\.ts:\d+:\d+/)]
    expect(redact({ error: new Failure('x', { cause: new TypeError('y') }) })).toEqual({
      error: {
        type: 'Failure',
        code: 'device_lost',
        frames: expect.arrayContaining(frames),
        cause: { type: 'TypeError', frames: expect.arrayContaining(frames) },
      },
    })
  })

  it('bounds depth, width and length', () => {
    const deep = JSON.stringify(
      redact({ error: { error: { error: { error: { error: { error: { error: { error: 1 } } } } } } } }),
    )
    expect(deep).toContain('[deep]')
    const wide = redact({ finish_reasons: Array.from({ length: 1000 }, (_, i) => i), reason: 'x'.repeat(5000) })
    expect((wide.finish_reasons as unknown[]).length).toBe(128)
    expect(String(wide.reason).length).toBe(1025)
    expect(Object.keys(redact(Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`k${i}`, i])))).length).toBe(
      64,
    )
  })
})
