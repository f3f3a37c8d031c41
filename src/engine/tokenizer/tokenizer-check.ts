/** Checks the contents of tokenizer.json before the library takes them, whose errors would name no field. */
import { ModelError } from '../runner/runner.ts'
import { isJsonObject, type Json } from '../weights/json-file.ts'

/** Larger than any real vocabulary, to keep tables by id small. */
const MAX_TOKEN_ID = (1 << 22) - 1

function described(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return `a list of ${value.length}`
  return isJsonObject(value) ? 'an object' : JSON.stringify(value).slice(0, 40)
}

function expectThat(isExpected: boolean, field: string, expected: string, found: unknown): void {
  if (!isExpected) throw new ModelError(`tokenizer.json: ${field}: expected ${expected}, found ${described(found)}`)
}

/** @throws ModelError naming the field */
export function checkTokenId(id: unknown, field: string): number {
  const isId = typeof id === 'number' && Number.isInteger(id) && id >= 0 && id <= MAX_TOKEN_ID
  expectThat(isId, field, `token ids from 0 to ${MAX_TOKEN_ID}`, id)
  return Number(id)
}

const isText = (value: unknown): value is string => typeof value === 'string'
const isAbsent = (value: unknown): boolean => value === undefined || value === null
const isMerge = (value: unknown): boolean =>
  isText(value) || (Array.isArray(value) && value.length === 2 && value.every(isText))

function checkModel(model: unknown): void {
  if (!isJsonObject(model)) return expectThat(false, 'model', 'an object', model)
  const { type, vocab, merges } = model
  if (type !== undefined) expectThat(isText(type), 'model.type', 'the name of a tokenizer model', type)
  if (type === 'Unigram') expectThat(Array.isArray(vocab), 'model.vocab', 'a list of tokens with scores', vocab)
  else expectThat(isJsonObject(vocab) || Array.isArray(vocab), 'model.vocab', 'token ids by token', vocab)
  if (type === 'BPE' && !Array.isArray(merges)) expectThat(false, 'model.merges', 'a list of pairs of tokens', merges)
  if (!Array.isArray(merges)) return
  const wrong = merges.findIndex((merge) => !isMerge(merge))
  if (wrong >= 0) expectThat(false, `model.merges[${wrong}]`, 'two tokens', merges[wrong])
}

function checkAddedTokens(added: unknown): void {
  if (isAbsent(added)) return
  if (!Array.isArray(added)) return expectThat(false, 'added_tokens', 'a list', added)
  for (const [i, token] of (added as readonly unknown[]).entries()) {
    const field = `added_tokens[${i}]`
    if (!isJsonObject(token)) return expectThat(false, field, 'an object', token)
    checkTokenId(token.id, `${field}.id`)
    expectThat(isText(token.content) && token.content !== '', `${field}.content`, 'the token’s text', token.content)
  }
}

/** Checks the fields that every use of a tokenizer reads. @param hasModel whether vocabulary and merges are in `model` @throws ModelError naming the field */
export function checkTokenizer(tokenizer: Json, hasModel: boolean): void {
  if (hasModel) checkModel(tokenizer.model)
  checkAddedTokens(tokenizer.added_tokens)
  for (const field of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) {
    const stage = tokenizer[field]
    if (isAbsent(stage)) continue
    if (!isJsonObject(stage)) return expectThat(false, field, 'an object or null', stage)
    expectThat(isText(stage.type) && stage.type !== '', `${field}.type`, 'the name of a stage', stage.type)
  }
}
