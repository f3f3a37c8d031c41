// How long a model takes to load and how much memory it needs, per gigabyte of its file: for the first time, and from the packed cache.
//   npm run bench -- load [--model FILE] [--shape smollm2-135m] [--type Q8_0] [--device cpu] [--rounds 3] [--peer PATH_OF_LLAMA_SERVER]
// Medians of the rounds. Without --model a file of random weights in the shape is written. Results: bench/results/load.json
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { SHAPES, writeGguf } from './lib/gguf.mjs'
import { startLlamaServer } from './lib/llama-server.mjs'
import { run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { median, round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    shape: { type: 'string', default: 'smollm2-135m' },
    type: { type: 'string', default: 'Q8_0' },
    device: { type: 'string', default: 'cpu' },
    rounds: { type: 'string', default: '3' },
    peer: { type: 'string' },
  },
})
const folder = mkdtempSync(join(tmpdir(), 'miniserve-load-'))

/** What a process has used so far: memory at its peak, and processor time; null where the system does not tell. */
function used(pid) {
  try {
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    // Behind the name, which may hold anything: user and system time are the twelfth and thirteenth, in hundredths of a second.
    const times = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return { peakBytes: Number(peak) * 1024, processorSeconds: (Number(times[11]) + Number(times[12])) / 100 }
  } catch {
    return { peakBytes: null, processorSeconds: null }
  }
}

await run('load', async (save) => {
  try {
    let path = flags.model
    if (path === undefined) {
      path = join(folder, 'model.gguf')
      writeGguf(path, SHAPES[flags.shape], flags.type)
    }
    const { size } = statSync(path)
    const cache = join(folder, 'cache')
    const ours = ['--model', path, '--device', flags.device, '--cache-dir', cache, '--log-file', '']
    const { peer } = flags
    /** @type {Record<string, () => Promise<{ pid: number | undefined, readyMs: number, stop: () => Promise<void> }>>} */
    const start = {
      'miniserve, first time': () => {
        rmSync(cache, { recursive: true, force: true })
        return startServer(ours)
      },
      'miniserve, from the packed cache': () => startServer(ours),
      ...(peer === undefined ? {} : { 'llama-server': () => startLlamaServer(peer, path) }),
    }
    /** @type {Record<string, { seconds: number, peakBytes: number | null, processorSeconds: number | null }[]>} */
    const found = Object.fromEntries(Object.keys(start).map((name) => [name, []]))
    // By turns, so that what else the machine does falls on all.
    for (let i = 0; i < Number(flags.rounds); i++) {
      for (const [name, startOne] of Object.entries(start)) {
        const server = await startOne()
        found[name]?.push({ seconds: server.readyMs / 1000, ...used(server.pid) })
        await server.stop()
      }
    }
    const rows = Object.entries(found).map(([name, starts]) => {
      const middle = (/** @type {(one: (typeof starts)[0]) => number | null} */ of) => {
        const values = starts.map(of).filter((value) => value !== null)
        return values.length === 0 ? null : median(values)
      }
      const [seconds, peak] = [median(starts.map((one) => one.seconds)), middle((one) => one.peakBytes)]
      return {
        name,
        seconds: round(seconds),
        secondsPerGigabyte: round(seconds / (size / 1e9)),
        processorSeconds: round(middle((one) => one.processorSeconds)),
        peakBytes: peak,
        peakOverFile: peak === null ? null : round(peak / size),
      }
    })
    console.table(rows)
    const file = flags.model === undefined ? `${flags.shape} ${flags.type}` : basename(path)
    save({ file, fileBytes: size, device: flags.device, rounds: Number(flags.rounds), rows })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
