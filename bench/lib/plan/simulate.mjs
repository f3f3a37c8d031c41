// A server in virtual time: the real scheduler, block pool, prefix cache and measured step times plan the steps, and what a step takes comes from
// measured costs. A step is planned while the one before it runs, as the server does (--run-ahead 1): who arrives meanwhile waits for the one after.
import { createHash } from 'node:crypto'
import { SamplingState } from '#dist/engine/requests/sampling.js'
import { Scheduler } from '#dist/engine/schedule/scheduler.js'
import { Sequence } from '#dist/engine/schedule/sequence.js'
import { StepTimes } from '#dist/engine/schedule/step-times.js'
import { quantile, round, seededRandom } from '../stats.mjs'
import { interpolate, promptSource } from './calibrate.mjs'

const BLOCK_SIZE = 16
const GREEDY = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  logitBias: null,
}

/**
 * What arrives: at random with a rate, or from clients that each wait for their answer.
 * @typedef {object} Traffic
 * @property {number | null} rate requests per second; null: `clients` counts
 * @property {number} clients
 * @property {number} promptTokens
 * @property {number} sharedTokens of the prompt, the same in every request
 * @property {number} outputTokens
 * @property {number} seconds
 */

/**
 * The server that is planned for.
 * @typedef {object} Server
 * @property {number} numBlocks of 16 tokens in the KV cache
 * @property {number} maxNumSeqs
 * @property {number} maxNumBatchedTokens
 * @property {number} maxPrefillMs
 */

/** @typedef {{p50: number, p95: number}} Spread */

/**
 * Requests at exponential distances: seconds from the start.
 * @param {number} rate
 * @param {number} seconds
 */
export function poissonArrivals(rate, seconds) {
  const random = seededRandom(7)
  const times = []
  for (let at = 0; ;) {
    at += -Math.log(1 - random()) / rate
    if (at >= seconds) return times
    times.push(at)
  }
}

/**
 * Plays the traffic.
 * @param {import('./calibrate.mjs').Costs} costs
 * @param {Traffic} traffic
 * @param {Server} server
 * @returns {{outputTokensPerSecond: number, busy: number, queueMs: Spread, ttftMs: Spread, tpotMs: Spread, itlMs: Spread, preemptions: number}} quantiles in
 *   milliseconds; `busy` is the share of the time in which steps ran
 */
export function simulate(costs, traffic, server) {
  // A server that has run for a while knows what its steps take.
  const times = new StepTimes()
  for (const [rows, ms] of costs.decode) times.record(rows, 0, ms)
  for (const [tokens, ms] of costs.prefill) if (tokens > 1) times.record(0, tokens, ms)
  const scheduler = new Scheduler({
    blockSize: BLOCK_SIZE,
    numBlocks: server.numBlocks,
    maxNumSeqs: server.maxNumSeqs,
    maxNumBatchedTokens: server.maxNumBatchedTokens,
    maxSampleRows: server.maxNumSeqs,
    maxPrefillTokens: (rows, backlog) => times.maxPrefillTokens(rows, backlog, server.maxPrefillMs),
    hash: (parent, tokens) => createHash('sha1').update(parent).update(String(tokens)).digest('base64'),
  })
  const promptOf = promptSource(23)
  const shared = promptOf(traffic.sharedTokens)
  const endMs = traffic.seconds * 1000
  const arrivals = (
    traffic.rate === null
      ? Array.from({ length: traffic.clients }, () => 0)
      : poissonArrivals(traffic.rate, traffic.seconds)
  ).map((at) => at * 1000)
  /** @typedef {{arrivedMs: number, firstMs: number, lastMs: number}} Times */
  /** @type {Map<Sequence, Times>} */
  const open = new Map()
  const timesOf = (sequence) => /** @type {Times} */ (open.get(sequence))
  /** @type {Record<'queue' | 'ttft' | 'tpot' | 'itl', number[]>} */
  const found = { queue: [], ttft: [], tpot: [], itl: [] }
  let numOutput = 0
  let numPreemptions = 0
  let numRequests = 0
  let busyMs = 0
  let nowMs = 0

  const arrive = (arrivedMs) => {
    const promptTokens = [...shared, ...promptOf(Math.max(1, traffic.promptTokens - shared.length))]
    const sampling = new SamplingState(
      { params: GREEDY, seed: 1, choice: 0, minTokens: 0, endTokenIds: [], logprobs: -1, vocabSize: 4096 },
      promptTokens,
    )
    const sequence = new Sequence({
      requestId: `r${numRequests}`,
      choice: 0,
      arrival: numRequests++,
      priority: 0,
      promptTokens,
      maxOutputTokens: traffic.outputTokens,
      sampling,
      promptLogprobs: -1,
      cacheRoot: 'root',
      promptHashes: [],
      hasGrammar: false,
      lookup: null,
      arrivedMs,
    })
    open.set(sequence, { arrivedMs, firstMs: arrivedMs, lastMs: arrivedMs })
    scheduler.add(sequence)
  }
  const [[, oneRowMs]] = costs.decode
  /** Milliseconds of a step: what one row takes, and what further rows, their contexts and prompt tokens add. */
  const costOf = (step) => {
    let ms = oneRowMs
    let rows = 0
    let context = 0
    for (const { isPrefill, startPosition, numTokens } of step.sequences) {
      if (isPrefill) {
        const before = startPosition === 0 ? oneRowMs : interpolate(costs.prefill, startPosition)
        ms += Math.max(0, interpolate(costs.prefill, startPosition + numTokens) - before)
      } else {
        rows++
        context += startPosition
      }
    }
    return ms + (rows === 0 ? 0 : interpolate(costs.decode, rows) - oneRowMs + (costs.contextMs * context) / 1000)
  }

  /** When the step that runs now was planned. */
  let plannedMs = 0
  while (open.size > 0 || arrivals.length > 0) {
    const knownMs = open.size > 0 ? plannedMs : nowMs
    plannedMs = nowMs
    while (arrivals.length > 0 && arrivals[0] + costs.requestMs <= knownMs) {
      const isIdle = open.size === 0
      arrive(arrivals.shift())
      // Requests are read one by one: the first of several finds the server idle, and is under way when the next comes.
      if (isIdle) break
    }
    const { step, preempted } = scheduler.schedule()
    numPreemptions += preempted.length
    if (step === null) {
      if (arrivals.length === 0) throw new Error('a request does not fit the KV cache')
      nowMs = Math.max(nowMs, arrivals[0] + costs.requestMs)
      plannedMs = nowMs
      continue
    }
    for (const { sequence, kind } of step.admitted) {
      if (kind === 'first') found.queue.push(nowMs - timesOf(sequence).arrivedMs)
    }
    const stepMs = costOf(step)
    nowMs += stepMs
    busyMs += stepMs
    times.record(step.numDecodeTokens, step.numPrefillTokens, stepMs)
    for (const entry of step.sequences) {
      const { sequence } = entry
      scheduler.settle(entry, entry.numSampleRows)
      if (entry.numSampleRows === 0) continue
      const request = timesOf(sequence)
      sequence.tokens.push(FIRST_OUTPUT + (sequence.tokens.length % 100))
      sequence.counters.firstTokenMs ??= nowMs
      numOutput++
      if (request.lastMs === request.arrivedMs) {
        found.ttft.push(nowMs - request.arrivedMs)
        request.firstMs = nowMs
      } else found.itl.push(nowMs - request.lastMs)
      request.lastMs = nowMs
      if (sequence.numOutputTokens < traffic.outputTokens) {
        scheduler.publish(sequence)
        continue
      }
      if (traffic.outputTokens > 1) found.tpot.push((nowMs - request.firstMs) / (traffic.outputTokens - 1))
      scheduler.finish(sequence)
      open.delete(sequence)
      if (traffic.rate === null && nowMs < endMs) arrivals.push(nowMs)
    }
  }
  const spread = (values) => ({ p50: round(quantile(values, 0.5), 1), p95: round(quantile(values, 0.95), 1) })
  return {
    outputTokensPerSecond: round((1000 * numOutput) / nowMs, 1),
    busy: round(busyMs / nowMs),
    queueMs: spread(found.queue),
    ttftMs: spread(found.ttft),
    tpotMs: spread(found.tpot),
    itlMs: spread(found.itl),
    preemptions: numPreemptions,
  }
}

/** Ids of generated tokens; which ones they are does not matter. */
const FIRST_OUTPUT = 1000
