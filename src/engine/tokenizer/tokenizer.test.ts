import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { goldenPath } from '../../../test/golden/golden.ts'
import { createChatTemplate, loadChatTemplate } from '../chat/chat-template.ts'
import { toolCallFormat } from '../tool-calls/tool-call-formats.ts'
import { createTokenizer, loadTokenizer } from './tokenizer.ts'

let directory = ''
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'miniserve-tokenizer-'))
})
afterAll(() => rm(directory, { recursive: true, force: true }))

describe('a byte-level tokenizer', () => {
  const tokenizer = createByteTokenizer()

  it('takes every text there and back', () => {
    for (const text of ['hello', ' two  spaces\n', 'é日本😀', '\u0000\u007f', 'the then']) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
    }
    expect(tokenizer.encode('th')).toEqual([257])
    expect([...tokenizer.tokenBytes(258)]).toEqual([...Buffer.from(' the')])
    expect(tokenizer.tokenBytes(9999)).toHaveLength(0)
  })

  it('knows its special tokens', () => {
    expect(tokenizer.encode('a<|end|>b')).toEqual([97, EOS, 98])
    expect(tokenizer.isSpecial(EOS)).toBe(true)
    expect(tokenizer.decode([97, EOS, 98])).toBe('a<|end|>b')
    expect(tokenizer.decode([97, EOS, 98], { skipSpecialTokens: true })).toBe('ab')
    expect(tokenizer).toMatchObject({
      name: 'BPE',
      vocabSize: 259,
      bosToken: null,
      eosToken: '<|end|>',
      spelling: 'byte_level',
    })
  })
})

it('knows the tokens that end a turn by what they are called', () => {
  const named = (contents: readonly string[], eosToken: string | null) => {
    const added = contents.map((content, i) => ({ id: 300 + i, content, special: true }))
    const tokenizer = createTokenizer({
      tokenizer: { model: { type: 'BPE', vocab: { a: 0 }, merges: [] }, added_tokens: added },
      config: eosToken === null ? {} : { eos_token: eosToken },
    })
    return tokenizer.endOfTurnIds.map((id) => contents[id - 300])
  }
  expect(named(['<|im_start|>', '<|im_end|>', '<|endoftext|>'], '<|endoftext|>')).toEqual([
    '<|im_end|>',
    '<|endoftext|>',
  ])
  expect(named(['<bos>', '<start_of_turn>', '<end_of_turn>'], null)).toEqual(['<end_of_turn>'])
  expect(named(['</s>', '[INST]'], '</s>')).toEqual(['</s>'])
  // Harmony: messages end with <|end|>, turns with the other two.
  expect(named(['<|start|>', '<|end|>', '<|return|>', '<|call|>'], '<|return|>')).toEqual(['<|return|>', '<|call|>'])
})

it('special tokens in data become text', () => {
  const tokenizer = createByteTokenizer()
  const escaped = tokenizer.escapeSpecialTokens('a <b> <|end|><|end|>')
  expect(escaped).toBe('a <b> < |end|>< |end|>')
  expect(tokenizer.encode(escaped)).not.toContain(EOS)
  expect(tokenizer.maxTokenBytes).toBe(7)
})

describe('a sentencepiece-style tokenizer', () => {
  const decoders = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: ' ', start: 1, stop: 0 },
  ]
  const vocab = Object.fromEntries(
    [
      '<unk>',
      '▁',
      '▁a',
      'b',
      ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
    ].map((token, id) => [token, id]),
  )
  const tokenizer = createTokenizer({
    tokenizer: {
      decoder: { type: 'Sequence', decoders },
      model: { type: 'BPE', vocab, merges: [], byte_fallback: true, unk_token: '<unk>' },
    },
    config: {},
  })

  it('spells spaces and fallback bytes, and drops the space its encoder put in front', () => {
    expect([...tokenizer.tokenBytes(2)]).toEqual([0x20, 0x61])
    expect([...tokenizer.tokenBytes(4 + 0xc3)]).toEqual([0xc3])
    expect(tokenizer.decode([2, 3, 2, 4 + 0xc3, 4 + 0xa9])).toBe('ab aé')
  })
})

describe('what cannot be loaded', () => {
  it('is told with its file', async () => {
    await expect(loadTokenizer(directory)).rejects.toThrow(
      /tokenizer\.json: expected the model's tokenizer, found no file/,
    )
    await writeFile(join(directory, 'tokenizer.json'), '{"model":')
    await expect(loadTokenizer(directory)).rejects.toThrow(/expected JSON/)
    await writeFile(join(directory, 'tokenizer.json'), 'null')
    await expect(loadTokenizer(directory)).rejects.toThrow(/tokenizer\.json: expected a JSON object, found null/)
    expect(() =>
      createTokenizer({
        tokenizer: { decoder: { type: 'WordPiece' }, model: { type: 'WordPiece', vocab: {} } },
        config: {},
      }),
    ).toThrow(/WordPiece/)
  })

  it.each([
    ['model', null, 'model: expected an object, found null'],
    ['model', { type: 'BPE', vocab: { a: 0 } }, 'model.merges: expected a list of pairs of tokens, found nothing'],
    ['model', { type: 'BPE', vocab: { a: 0 }, merges: [['a', 'a'], ['a']] }, 'model.merges[1]: expected two tokens'],
    ['model', { type: 'BPE', vocab: 'x', merges: [] }, 'model.vocab: expected token ids by token, found "x"'],
    ['model', { type: 'Unigram', vocab: {}, merges: [] }, 'model.vocab: expected a list of tokens with scores'],
    ['model', { type: 'BPE', vocab: { a: -1 }, merges: [] }, 'model.vocab: expected token ids from 0 to'],
    ['added_tokens', 'x', 'added_tokens: expected a list, found "x"'],
    ['added_tokens', [{ id: 1, content: null }], 'added_tokens[0].content: expected the token’s text, found null'],
    ['added_tokens', [{ id: 0.5, content: 'a' }], 'added_tokens[0].id: expected token ids from 0 to'],
    ['pre_tokenizer', [], 'pre_tokenizer: expected an object or null, found a list of 0'],
    ['decoder', {}, 'decoder.type: expected the name of a stage, found nothing'],
  ])('names file, field, expected and found: %s %j', async (field, value, problem) => {
    const whole = JSON.parse(await readFile(`${goldenPath('tiny-text')}/tokenizer.json`, 'utf8')) as object
    await writeFile(join(directory, 'tokenizer.json'), JSON.stringify({ ...whole, [field]: value }))
    await expect(loadTokenizer(directory)).rejects.toThrow(`${join(directory, 'tokenizer.json')}: ${problem}`)
  })

  it.each([5, { default: 'a' }, ['a'], [{ name: 'default', template: 1 }]])(
    'a chat template that is none is not taken for a missing one: %j',
    async (template) => {
      await writeFile(join(directory, 'tokenizer.json'), '{}')
      await writeFile(join(directory, 'tokenizer_config.json'), JSON.stringify({ chat_template: template }))
      await expect(loadChatTemplate(directory, createByteTokenizer())).rejects.toThrow(
        /tokenizer_config\.json: chat_template: expected a template or a list of \{name, template\}, found an? /,
      )
      await writeFile(join(directory, 'tokenizer_config.json'), JSON.stringify({ chat_template: '{% if' }))
      await expect(loadChatTemplate(directory, createByteTokenizer())).rejects.toThrow(
        /tokenizer_config\.json: chat template: cannot be parsed/,
      )
      await rm(join(directory, 'tokenizer_config.json'))
    },
  )
})

describe('a chat template', () => {
  const source =
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant', 'system'] %}{{ raise_exception('Unknown role') }}{% endif %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
  const template = createChatTemplate(source, { bosToken: '^', eosToken: '$' })
  const user = { role: 'user', content: ' hi ' }

  it('renders a conversation up to the answer', () => {
    expect(template.render([{ role: 'system', content: 'be brief' }, user])).toBe(
      '^<system>be brief$<user>hi$<assistant>',
    )
  })

  it('continues the final message where it ends', () => {
    const messages = [user, { role: 'assistant', content: 'The answer ' }]
    expect(template.render(messages, { continueFinalMessage: true })).toBe('^<user>hi$<assistant>The answer ')
  })

  it('refuses what the template refuses as a bad request', () => {
    for (const messages of [[{ role: 'wizard', content: 'x' }], []]) {
      expect(() => template.render(messages)).toThrow(
        expect.objectContaining({ code: 'invalid_request', param: 'messages' }),
      )
    }
    expect(() => createChatTemplate('{% if %}', { bosToken: null, eosToken: null })).toThrow(/cannot be parsed/)
  })

  it('is found in the jinja file, else in the config, by its name `default`, or `tool_use` where there are tools', async () => {
    const SHOWN = '{% for m in messages %}{{ m.content }}{% endfor %}'
    const tokenizer = createByteTokenizer()
    await writeFile(join(directory, 'tokenizer.json'), '{}')
    expect(await loadChatTemplate(directory, tokenizer)).toBeNull()
    const list = [
      { name: 'tool_use', template: `<tool_call>{{ tools | tojson }}${SHOWN}` },
      { name: 'default', template: `list${SHOWN}` },
    ]
    await writeFile(join(directory, 'tokenizer_config.json'), JSON.stringify({ chat_template: list }))
    const named = await loadChatTemplate(directory, tokenizer)
    expect(named?.render([user])).toBe('list hi ')
    expect(named?.render([user], { tools: [] })).toBe('list hi ')
    const tool = { type: 'function', function: { name: 'f' } }
    expect(named?.render([user], { tools: [tool] })).toBe(
      '<tool_call>[{"type": "function", "function": {"name": "f"}}] hi ',
    )
    expect(toolCallFormat('auto', named?.source ?? null)?.name).toBe('hermes')
    await writeFile(join(directory, 'chat_template.jinja'), `file${SHOWN}`)
    expect((await loadChatTemplate(directory, tokenizer))?.render([user])).toBe('file hi ')
  })

  it('names the flag of a template file that cannot be used', async () => {
    const use = async (name: string, text?: string) => {
      const file = join(directory, name)
      if (text !== undefined) await writeFile(file, text)
      return loadChatTemplate(directory, createByteTokenizer(), file)
    }
    await expect(use('none.jinja')).rejects.toThrow(
      /^--chat-template .*none\.jinja: expected a Jinja template, found no such file$/,
    )
    await expect(use('.')).rejects.toThrow(/^--chat-template .*: expected a Jinja template, found a folder$/)
    await expect(use('blank.jinja', ' \n')).rejects.toThrow(
      /^--chat-template .*: expected a Jinja template, found an empty file$/,
    )
    await expect(use('broken.jinja', '{% if x %}')).rejects.toThrow(
      /^--chat-template .*: chat template: cannot be parsed/,
    )
  })
})
