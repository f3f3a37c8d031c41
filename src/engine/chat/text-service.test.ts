import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createChatTemplate, loadChatTemplate } from './chat-template.ts'
import type { ChatTemplate } from './chat-template.ts'
import { TextService } from './text-service.ts'
import { loadTokenizer } from '../tokenizer/tokenizer.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

const MODEL = fileURLToPath(new URL('../../../models/mini-1m', import.meta.url))
const opened: TextService[] = []
const open = (...args: ConstructorParameters<typeof TextService>): TextService => {
  const service = new TextService(...args)
  opened.push(service)
  return service
}

let tokenizer: Tokenizer
let template: ChatTemplate | null
beforeAll(async () => {
  tokenizer = await loadTokenizer(MODEL)
  template = await loadChatTemplate(MODEL, tokenizer)
})
afterAll(async () => {
  for (const service of opened) await service.close()
})

const long = (characters: number): string =>
  'The quick brown fox; über Straße 東京 👩‍👩‍👧 <|im_end|> 1234\n'.repeat(Math.ceil(characters / 50)).slice(0, characters)

describe('texts of any length', () => {
  test('become the same ids and the same text, here and in the thread', async () => {
    const service = open(tokenizer, template, 1_000_000)
    const texts = [1, 2048, 2049, 70_000].map(long)
    for (const addSpecialTokens of [true, false]) {
      const expected = texts.map((text) => tokenizer.encode(text, { addSpecialTokens }))
      expect(await service.encode(texts.map((text) => ({ text })), { addSpecialTokens })).toEqual(expected) // prettier-ignore
    }
    const ids = tokenizer.encode(long(40_000))
    expect(ids.length).toBeGreaterThan(8192)
    for (const skipSpecialTokens of [true, false])
      expect(await service.decode(ids, { skipSpecialTokens })).toBe(tokenizer.decode(ids, { skipSpecialTokens }))
    expect(await service.encode([{ ids: [5] }, { text: long(5000) }])).toEqual([[5], tokenizer.encode(long(5000))])
  })

  test('conversations likewise, what people write as data', async () => {
    const service = open(tokenizer, template, 1_000_000)
    const render = (content: string) => template?.render([{ role: 'user', content }]) ?? ''
    for (const size of [100, 10_000]) {
      const content = tokenizer.escapeSpecialTokens(long(size))
      const ids = await service.encode([{ messages: [{ role: 'user', content: long(size) }] }])
      expect(ids).toEqual([tokenizer.encode(render(content), { addSpecialTokens: false })])
    }
  })

  test('that cannot fit are refused unread', async () => {
    const service = open(tokenizer, template, 100)
    await expect(service.encode([{ text: long(5000) }])).rejects.toMatchObject({
      code: 'context_length_exceeded',
      param: 'prompt',
    })
  })
})

test('a long text leaves this thread free, and a short one does not wait for it', async () => {
  const service = open(tokenizer, template, 1_000_000)
  let isDone = false
  const encoding = service.encode([{ text: long(400_000) }]).finally(() => (isDone = true))
  expect(await service.encode([{ text: 'short' }])).toEqual([tokenizer.encode('short')])
  expect(isDone).toBe(false)
  expect((await encoding)[0]?.length).toBeGreaterThan(100_000)
})

describe('the queue of long texts', () => {
  test('gives up what nobody waits for', async () => {
    const service = open(tokenizer, template, 1_000_000)
    const abort = new AbortController()
    const { signal } = abort
    const running = service.encode([{ text: long(400_000) }], { signal })
    const waiting = service.encode([{ text: long(5000) }], { signal })
    const other = service.encode([{ text: long(6000) }])
    abort.abort(new Error('left'))
    await expect(running).rejects.toThrow('left')
    await expect(waiting).rejects.toThrow('left')
    expect(await other).toEqual([tokenizer.encode(long(6000))])
  })

  test('is bounded for each tenant, and tenants take turns', async () => {
    const service = open(tokenizer, template, 1_000_000)
    const ended: string[] = []
    const ask = (tenant: string) =>
      service.encode([{ text: long(20_000) }], { tenant }).finally(() => ended.push(tenant))
    const own = Array.from({ length: 33 }, () => ask('a'))
    await expect(ask('a')).rejects.toMatchObject({ code: 'queue_full' })
    await ask('b')
    expect(ended.filter((tenant) => tenant === 'a').length).toBeLessThanOrEqual(4)
    await Promise.all(own)
  })

  test('ends with the service', async () => {
    const service = open(tokenizer, template, 1_000_000)
    const running = service.encode([{ text: long(400_000) }])
    const refused = expect(running).rejects.toMatchObject({ code: 'shutdown' })
    await service.close()
    await refused
    await expect(service.encode([{ text: long(5000) }])).rejects.toMatchObject({ code: 'shutdown' })
  })
})

describe("a model's own files", () => {
  let folder: string
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'text-service-'))
  })
  afterAll(() => rmSync(folder, { recursive: true }))

  test('with a pattern that backtracks hold up nobody, and are blamed', async () => {
    const files = {
      model: { type: 'BPE', vocab: { a: 0, b: 1, '<unk>': 2 }, unk_token: '<unk>', merges: [] },
      decoder: { type: 'ByteLevel' },
      pre_tokenizer: { type: 'Split', pattern: { Regex: '^(a+)+$' }, behavior: 'Isolated' },
    }
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(files))
    const service = open(await loadTokenizer(folder), null, 100_000)
    const slow = { text: `${'a'.repeat(60)}b` }
    let numTurns = 0
    const counting = setInterval(() => numTurns++, 10)
    await expect(service.encode([slow])).rejects.toMatchObject({ code: 'invalid_request', param: 'prompt' })
    clearInterval(counting)
    // The pattern has half a second in the thread, and a part of that here.
    expect(numTurns).toBeGreaterThan(10)
    expect(await service.encode([{ text: 'b' }])).toEqual([[1]])
  })

  test('with a template that works for long likewise', async () => {
    const loops = createChatTemplate(
      '{% for i in range(90000) %}{% for j in range(90000) %}{{ messages }}{% endfor %}{% endfor %}',
      tokenizer,
    )
    const service = open(tokenizer, loops, 1_000_000)
    let numTurns = 0
    const counting = setInterval(() => numTurns++, 10)
    const messages = [{ role: 'user', content: 'hi' }]
    await expect(service.encode([{ messages }])).rejects.toMatchObject({ code: 'engine_error', param: null })
    clearInterval(counting)
    expect(numTurns).toBeGreaterThan(10)
  })
})
