// What a server's steps cost, seen from outside: decode steps by their rows, prompts by their length, the context that each row reads. Works on any
// server of the completions API, so engines elsewhere can be planned for as well.
import { complete, createAgent } from '../load-generator.mjs'
import { median, round, seededRandom } from '../stats.mjs'

/** Token ids that every vocabulary has; prompts of them have a length that is exact, and nothing in common. */
const FIRST_ID = 300
const NUM_IDS = 600
const REPEATS = 3
const DECODE_TOKENS = 96
/** Requests before anything counts: the server's code is compiled while it runs. */
const WARMUP = 12

/**
 * Costs of a server. Curves are points [size, milliseconds] in order of size.
 * @typedef {object} Costs
 * @property {[rows: number, ms: number][]} decode a step of so many sequences, short contexts
 * @property {[tokens: number, ms: number][]} prefill a prompt of so many tokens, alone, to its first token
 * @property {number} contextMs added to a decode step per row and 1,000 tokens of its context
 * @property {number} requestMs from the client to the scheduler and back, per request
 */

let numCalibrations = 0

/** A source of prompts of so many tokens, no two alike. */
export function promptSource(seed) {
  const random = seededRandom(seed)
  return (numTokens) => Array.from({ length: numTokens }, () => FIRST_ID + Math.floor(random() * NUM_IDS))
}

/**
 * Measures a server that has nothing else to do.
 * @param {string} url
 * @param {{rows: readonly number[], prompts: readonly number[]}} sizes numbers of sequences, and lengths of prompts
 * @returns {Promise<Costs>}
 */
export async function calibrate(url, { rows, prompts }) {
  const agent = createAgent()
  const longest = Math.max(...prompts)
  // Others each time: what the server's prefix cache knows costs nothing.
  const promptOf = promptSource(1_000 + numCalibrations++)
  const ask = async (prompt, maxTokens) => {
    const result = await complete(agent, url, { prompt, max_tokens: maxTokens, ignore_eos: true, temperature: 0 })
    if (!result.isOk) throw new Error(`a request of the calibration failed with status ${result.status}`)
    return result
  }
  /** Milliseconds of a step of `count` sequences with prompts of `length`, while all of them decode. */
  const stepMs = async (count, length) => {
    const results = await Promise.all(Array.from({ length: count }, () => ask(promptOf(length), DECODE_TOKENS)))
    const from = Math.max(...results.map(({ arrivals }) => arrivals[0]))
    const to = Math.min(...results.map(({ arrivals }) => arrivals.at(-1)))
    const tokens = results.reduce((sum, { arrivals }) => sum + arrivals.filter((at) => at > from && at <= to).length, 0)
    return (count * (to - from)) / tokens
  }
  const medianOf = async (measure) => {
    const values = []
    for (let i = 0; i < REPEATS; i++) values.push(await measure())
    return median(values)
  }
  const firstTokenMs = (length) =>
    medianOf(async () => {
      const { arrivals, startMs } = await ask(promptOf(length), 2)
      return arrivals[0] - startMs
    })
  try {
    /** @type {Costs['decode']} */
    const decode = []
    for (const count of rows) decode.push([count, round(await medianOf(() => stepMs(count, 8)), 3)])
    const oneRow = decode[0][1]
    const shortest = await firstTokenMs(1)
    const requestMs = Math.max(0, shortest - oneRow)
    /** @type {Costs['prefill']} */
    const prefill = [[1, oneRow]]
    for (const length of prompts) prefill.push([length, round((await firstTokenMs(length)) - requestMs, 3)])
    const contextMs = Math.max(0, (await medianOf(() => stepMs(1, longest))) - oneRow) / (longest / 1000)
    return { decode, prefill, contextMs: round(contextMs, 4), requestMs: round(requestMs, 3) }
  } finally {
    agent.destroy()
  }
}

/** Compiles a server's code by use, with the loads that it is calibrated with. */
export async function warmUp(url, { rows, prompts }) {
  const agent = createAgent()
  const promptOf = promptSource(13)
  const ask = (length) =>
    complete(agent, url, { prompt: promptOf(length), max_tokens: 16, ignore_eos: true, temperature: 0 })
  for (let i = 0; i < WARMUP; i++) {
    const count = Math.min(4, Math.max(...rows))
    await Promise.all(Array.from({ length: count }, () => ask(prompts[i % prompts.length])))
  }
  agent.destroy()
}

/** The median of several calibrations of one server, number by number. */
export function medianCosts(all) {
  const curve = (name) => all[0][name].map(([size], i) => [size, median(all.map((costs) => costs[name][i][1]))])
  return {
    decode: curve('decode'),
    prefill: curve('prefill'),
    contextMs: median(all.map(({ contextMs }) => contextMs)),
    requestMs: median(all.map(({ requestMs }) => requestMs)),
  }
}

/**
 * The value of a curve, straight between its points and beyond them.
 * @param {readonly [number, number][]} points
 * @param {number} size
 */
export function interpolate(points, size) {
  if (points.length === 1) return points[0][1]
  const at = points.findIndex(([known]) => known >= size)
  const upper = Math.max(1, at < 0 ? points.length - 1 : at)
  const [[x0, y0], [x1, y1]] = [points[upper - 1], points[upper]]
  return Math.max(0, y0 + ((y1 - y0) * (size - x0)) / (x1 - x0))
}
