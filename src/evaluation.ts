/**
 * Measures how well a model predicts: perplexity of a text, and accuracy on multiple-choice questions. Both run on the serving engine, so they
 * also show what a quantisation or a kernel costs in quality.
 */
import { foundInstead, readText } from './regular-file.ts'
import { z } from 'zod'
import { bareRequest } from './bare-request.ts'
import type { Engine, GenerationRequest } from './engine/request.ts'

/** A file that cannot be evaluated. The message names the file and line, what was expected and what was found. */
export class EvaluationError extends Error {
  override readonly name = 'EvaluationError'
}

interface Perplexity {
  readonly perplexity: number
  /** Tokens that were scored. */
  readonly tokens: number
  readonly seconds: number
}

interface ChoicesResult {
  /** Share of items in which the right choice has the largest log-probability. */
  readonly accuracy: number
  /** The same with log-probabilities divided by the choice's length in bytes, like acc_norm of lm-evaluation-harness. */
  readonly accuracy_norm: number
  readonly items: number
}

/** The default of llama.cpp's perplexity tool, in tokens. */
const DEFAULT_CONTEXT = 512

/** A request that scores its prompt and generates nothing. */
const scoringRequest = (ids: readonly number[]): GenerationRequest =>
  bareRequest(ids, { requestId: 'eval', maxTokens: 0, promptLogprobs: 0, cacheSalt: 'eval' })

/** Log-probability of each token given those before it; entry 0 belongs to token 1. */
async function scoreTokens(engine: Engine, ids: readonly number[]): Promise<number[]> {
  const scores: number[] = []
  for await (const event of engine.submit(scoringRequest(ids), new AbortController().signal)) {
    if (event.type !== 'promptLogprobs') continue
    for (const entry of event.entries.slice(1)) scores.push(entry?.detail.logprob ?? -Infinity)
  }
  return scores
}

async function encode(engine: Engine, text: string, addSpecialTokens: boolean): Promise<readonly number[]> {
  const ids = (await engine.encode([{ text }], { addSpecialTokens, isAnyLength: true }))?.[0]
  if (ids === undefined)
    throw new EvaluationError('--engine-url: expected a model of this process, found a remote engine')
  return ids
}

async function readSample(path: string): Promise<string> {
  try {
    // Drops the byte order mark that some editors write.
    return (await readText(path)).replace(/^\uFEFF/, '')
  } catch (error) {
    throw new EvaluationError(`${path}: expected a text file, found ${foundInstead(error)}`, { cause: error })
  }
}

/**
 * Perplexity of a text: exp of the mean negative log-likelihood per token. As in llama.cpp's perplexity tool, the text is cut into windows of
 * `context` tokens, each window begins with the model's BOS token if it has one, and only the second half of each window is scored. A text
 * shorter than two windows is scored as one window, from its second token.
 * @throws EvaluationError for a file that cannot be read or has fewer than two tokens.
 */
export async function measurePerplexity(
  engine: Engine,
  path: string,
  context: number | null,
  onProgress: (done: number, total: number) => void,
): Promise<Perplexity> {
  const startedMs = performance.now()
  const ids = await encode(engine, await readSample(path), false)
  const window = Math.min(context ?? DEFAULT_CONTEXT, engine.maxModelLen)
  const prefix = await encode(engine, '', true)
  const isShort = ids.length < 2 * window
  if (window - prefix.length < 2)
    throw new EvaluationError(`--context: expected ${prefix.length + 2} tokens or more, found ${window}`)
  const size = isShort ? Math.min(ids.length, engine.maxModelLen - prefix.length) : window - prefix.length
  if (size < 2) throw new EvaluationError(`${path}: expected at least two tokens of text, found ${ids.length}`)
  const numWindows = isShort ? 1 : Math.floor(ids.length / size)
  let sum = 0
  let tokens = 0
  for (let i = 0; i < numWindows; i++) {
    const scores = await scoreTokens(engine, [...prefix, ...ids.slice(i * size, (i + 1) * size)])
    const counted = isShort
      ? scores.slice(prefix.length === 0 ? 0 : prefix.length - 1)
      : scores.slice(Math.floor(window / 2))
    sum += counted.reduce((total, score) => total + score, 0)
    tokens += counted.length
    onProgress(i + 1, numWindows)
  }
  return { perplexity: Math.exp(-sum / tokens), tokens, seconds: (performance.now() - startedMs) / 1000 }
}

const item = z
  .object({
    prompt: z.string('a text'),
    choices: z
      .array(z.string('a text').min(1, 'a text of one character or more'), 'a list of texts')
      .min(2, 'two or more'),
    answer: z.int('the index of one of the choices').min(0, 'the index of one of the choices'),
  })
  .refine(({ choices, answer }) => answer < choices.length, {
    path: ['answer'],
    error: 'the index of one of the choices',
  })

/**
 * Accuracy over a file of JSON lines {prompt, choices, answer}. The model's answer is the choice with the largest log-probability after the
 * prompt. White space at the end of a prompt is moved to the choices, because tokenizers attach it to the next word.
 * @throws EvaluationError naming the line at fault.
 */
export async function measureChoices(
  engine: Engine,
  path: string,
  onProgress: (done: number, total: number) => void,
): Promise<ChoicesResult> {
  const items = (await readSample(path)).split('\n').flatMap((line, i) => {
    const where = `${path}:${i + 1}`
    return line.trim() === '' ? [] : [{ ...parseItem(line, where), where }]
  })
  if (items.length === 0) throw new EvaluationError(`${path}: expected JSON lines, found none`)
  let numRight = 0
  let numRightByByte = 0
  for (const [i, { prompt, choices, answer, where }] of items.entries()) {
    const scores: number[] = []
    for (const choice of choices) scores.push(await scoreContinuation(engine, prompt, choice, where))
    const byByte = scores.map((score, j) => score / Buffer.byteLength(choices[j] ?? ''))
    if (indexOfGreatest(scores) === answer) numRight++
    if (indexOfGreatest(byByte) === answer) numRightByByte++
    onProgress(i + 1, items.length)
  }
  return { accuracy: numRight / items.length, accuracy_norm: numRightByByte / items.length, items: items.length }
}

function parseItem(line: string, where: string): z.output<typeof item> {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (error) {
    throw new EvaluationError(`${where}: expected a JSON object, found something else`, { cause: error })
  }
  const parsed = item.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new EvaluationError(
    `${where}: ${issue?.path.join('.') || 'the line'}: expected ${issue?.path.length ? issue.message : 'an object {prompt, choices, answer}'}`,
  )
}

async function scoreContinuation(engine: Engine, prompt: string, choice: string, where: string): Promise<number> {
  const text = prompt.trimEnd()
  const before = await encode(engine, text, true)
  const whole = await encode(engine, text + prompt.slice(text.length) + choice, true)
  if (whole.length > engine.maxModelLen) {
    throw new EvaluationError(
      `${where}: expected at most ${engine.maxModelLen} tokens of prompt and choice, found ${whole.length}`,
    )
  }
  const scores = await scoreTokens(engine, whole)
  return scores.slice(Math.max(before.length - 1, 0)).reduce((sum, score) => sum + score, 0)
}

const indexOfGreatest = (values: readonly number[]): number => values.indexOf(Math.max(...values))
