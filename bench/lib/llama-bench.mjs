// llama.cpp's own benchmark as a peer of `bench model`: a process per measurement, so that its threads are gone while ours are measured.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const execute = promisify(execFile)
/** A measurement that takes longer hangs. */
const TIMEOUT_MS = 300_000

/**
 * llama-bench over a file, one sequence at a time (it has no batches). It decodes behind a context of `prompt` tokens, as ours does.
 * @param {{ program: string, file: string, threads: number, prompt: number, tokens: number }} options `program`: llama-bench, or a script that
 *   takes its arguments
 * @throws Error when it does not run, or prints no JSON
 */
export async function loadLlamaBench({ program, file, threads, prompt, tokens }) {
  const measureOnce = async (/** @type {string[]} */ args) => {
    const common = ['-m', file, '-t', String(threads), '-r', '1', '-o', 'json']
    const { stdout } = await execute(program, [...common, ...args], { timeout: TIMEOUT_MS, maxBuffer: 2 ** 24 })
    const results = JSON.parse(stdout)
    if (!Array.isArray(results) || results.length !== 1)
      throw new Error(`${results.length} results where 1 was asked for`)
    return results[0]
  }
  const smallest = await measureOnce(['-p', '8', '-n', '0'])
  return {
    name: 'llama-bench',
    batches: [1],
    info: {
      commit: smallest.build_commit,
      build: smallest.build_number,
      backend: smallest.backends,
      threads: smallest.n_threads,
      model: smallest.model_type,
    },
    async measure() {
      const prefill = await measureOnce(['-p', String(prompt), '-n', '0'])
      const decode = await measureOnce(['-p', '0', '-n', String(tokens), '-d', String(prompt)])
      return { prefill: prefill.avg_ts, decode: decode.avg_ts }
    },
    close: async () => {},
  }
}
