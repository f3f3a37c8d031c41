#!/usr/bin/env node
// `npm run bench -- quantisations --llama FOLDER --model FILE.gguf [--types Q8_0,Q4_K_M,…] [--context 512] [--bytes 8000]`
// What each quantisation of a real model costs: perplexity of a text (this project's own documentation) by `miniserve eval perplexity`, beside
// llama-perplexity on the same file and the same text. llama-quantize makes the files from FILE, which has the weights as f16; FOLDER has llama.cpp's
// llama-quantize and llama-perplexity. The files are kept beside FILE, and made once. Types that there is a result for already are not run again.
// `--kv f16,q8` measures types of the KV cache on FILE instead, without llama.cpp.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root, run } from './lib/run.mjs'
import { round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    llama: { type: 'string', default: '' },
    model: { type: 'string' },
    name: { type: 'string', default: 'gemma-3-270m' },
    types: {
      type: 'string',
      default: 'Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,IQ4_NL,IQ4_XS,Q3_K_M,IQ3_M,IQ3_S,IQ3_XXS,Q2_K,IQ2_M',
    },
    kv: { type: 'string', default: '' },
    context: { type: 'string', default: '512' },
    bytes: { type: 'string', default: '8000' },
    device: { type: 'string', default: 'cpu' },
  },
})
if (flags.model === undefined) throw new Error('--model: expected a GGUF file with the weights as f16')
const source = flags.model
const folder = dirname(source)
const text = join(folder, 'text.txt')
writeFileSync(text, readFileSync(join(root, 'docs', 'architecture.md')).subarray(0, Number(flags.bytes)))

/** Standard output of a program, with what it says on standard error behind it. */
function outputOf(command, args) {
  return execFileSync('sh', ['-c', '"$0" "$@" 2>&1', command, ...args], { encoding: 'utf8', maxBuffer: 1 << 26 })
}

function ours(path, ...more) {
  const args = [join(root, 'dist', 'main.js'), 'eval', 'perplexity', text, '--model', path, '--context', flags.context]
  const line = execFileSync(process.execPath, [...args, '--device', flags.device, ...more], { encoding: 'utf8' })
  return JSON.parse(line)
}

function theirs(path) {
  const output = outputOf(join(flags.llama, 'llama-perplexity'), ['-m', path, '-f', text, '-c', flags.context])
  const found = /Final estimate: PPL = ([\d.]+) \+\/- ([\d.]+)/.exec(output)
  if (found === null) throw new Error(`llama-perplexity ${path}: no estimate in ${output.slice(-400)}`)
  return { perplexity: Number(found[1]), error: Number(found[2]) }
}

function fileOf(type) {
  if (type === 'F16') return source
  const path = join(folder, `${type}.gguf`)
  if (!existsSync(path)) outputOf(join(flags.llama, 'llama-quantize'), ['--allow-requantize', source, path, type])
  return path
}

await run('quantisations', async (save) => {
  const isKv = flags.kv !== ''
  const name = `${isKv ? 'kv-types' : 'quantisations'}-${flags.name}`
  const kept = join(root, 'bench', 'results', `${name}.json`)
  const rows = existsSync(kept) ? JSON.parse(readFileSync(kept, 'utf8')).rows : []
  const types = isKv ? flags.kv.split(',') : ['F16', ...flags.types.split(',')]
  let tokens = 0
  for (const type of types) {
    if (rows.some((row) => row.type === type)) continue
    const path = isKv ? source : fileOf(type)
    const own = isKv ? ours(path, '--kv-cache-dtype', type) : ours(path)
    tokens = own.tokens
    const peer = isKv ? null : theirs(path)
    rows.push({
      type,
      bytes: statSync(path).size,
      tokens,
      perplexity: round(own.perplexity, 4),
      llamaPerplexity: peer === null ? null : round(peer.perplexity, 4),
      llamaError: peer === null ? null : round(peer.error, 4),
    })
    const [first] = rows
    const table = rows.map((row) => ({
      ...row,
      changePercent: round(100 * (row.perplexity / first.perplexity - 1), 2),
      overLlamaPercent:
        row.llamaPerplexity === null ? null : round(100 * (row.perplexity / row.llamaPerplexity - 1), 2),
    }))
    console.table(table)
    save({ model: flags.name, device: flags.device, context: Number(flags.context), rows: table }, name)
  }
})
