#!/usr/bin/env node
// Rewrites docs/benchmarks.md and the README's numbers from bench/results/*.json: node scripts/benchmarks.mjs
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (path) => {
  const file = join(root, path)
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : null
}
const results = (name) => read(`bench/results/${name}.json`)
const rows = []
const row = (what, value, command) => rows.push(`| ${what} | ${value} | \`${command}\` |`)
const number = (value, digits = 0) => value.toLocaleString('en-US', { maximumFractionDigits: digits })

const start = results('start')
for (const { device, readySeconds, tokensPerSecond, healthP99Ms } of start.results) {
  row(`start to ready, ${device}`, `${number(readySeconds, 2)} s`, 'npm run bench -- start')
  row(`one stream of the bundled model, ${device}`, `${number(tokensPerSecond)} tokens/s`, 'npm run bench -- start')
  row(`/health while it streams, p99, ${device}`, `${number(healthP99Ms, 1)} ms`, 'npm run bench -- start')
}
const MODEL = 'npm run bench -- model --llama LLAMA_BENCH --prompt 256 --tokens 64'
const SMALL = `${MODEL} --quantization none,q8,q4,q4_k_m --batch 1 --rounds 2`
const KINDS = { none: 'F16', q8: 'Q8_0', q4: 'Q4_0', q4_k_m: 'Q4_K_M' }
for (const [name, label, command] of [
  ...Object.entries(KINDS).map(([kind, type]) => [`smollm2-135m-${kind}`, `SmolLM2-135M shape, ${type}`, SMALL]),
  [
    'llama-3.2-1b-q4_k_m',
    'Llama-3.2-1B shape, Q4_K_M',
    `${MODEL} --shape llama-3.2-1b --quantization q4_k_m --batch 1`,
  ],
  ['gemma-3-270m-q4_k_m', 'Gemma 3 270M, Q4_K_M', `${MODEL} --file GEMMA --name gemma-3-270m-q4_k_m --batch 1`],
]) {
  const measured = results(`model-cpu-${name}`)
  if (measured === null) continue
  const of = (batch) => measured.rows.find((found) => found.batch === batch)?.results
  const [ours, theirs] = of(1)
  for (const phase of ['decode', 'prefill']) {
    const key = `${phase}TokensPerSecond`
    const ratio = theirs === undefined ? '' : `, ${number(ours[key] / theirs[key], 2)} × ${theirs.name}`
    row(`${label}, on cpu, ${phase}`, `${number(ours[key])} tokens/s${ratio}`, command)
  }
  const sixteen = of(16)?.[0]
  if (sixteen !== undefined) {
    const ratio = sixteen.decodeTokensPerSecond / ours.decodeTokensPerSecond
    row(`${label}, on cpu, decode at batch 16 over batch 1`, `${number(ratio, 1)} ×`, command)
  }
}

/** The worst of some compiled kernels. */
function worst(found) {
  const most = (key) => Math.max(...found.map((row) => row[key]))
  return {
    spilled: most('spilled_vgprs'),
    scratch: most('scratch_bytes'),
    waves: Math.min(...found.map((row) => row.waves_per_simd)),
  }
}
const before = results('isa-before')
const isa = results('isa')
const ISA = 'npm run bench -- isa'
for (const [weights, bits] of Object.entries({ f16: 16, q8: 8, q4: 4 })) {
  const then = worst(
    before.kernels.filter(
      ({ kernel, weights: of, rows }) => kernel === 'linear-matrix (gateUp)' && of === weights && rows === 512,
    ),
  )
  const now = worst(
    isa.kernels.filter(({ kernel, defines }) => kernel === 'linear-matrix' && defines.startsWith(`FORMAT=${bits} `)),
  )
  row(
    `prefill tile, ${weights}, compiled for Radeon RX 6900 XT and 7900 XTX`,
    `${now.spilled} registers spilled (${then.spilled} before), ${now.scratch} bytes of scratch (${number(then.scratch)}), ` +
      `${now.waves} waves per SIMD (${then.waves})`,
    ISA,
  )
}
row(
  `all WebGPU kernels of ${new Set(isa.kernels.flatMap(({ models }) => models.split(', '))).size} models in every format, compiled for the same`,
  `${isa.kernels.filter((found) => found.spilled_vgprs > 0 || found.scratch_bytes > 0).length} of ${isa.kernels.length} spill, ` +
    `${Math.min(...isa.kernels.map((found) => found.waves_per_simd))} waves per SIMD at least`,
  ISA,
)
const host = results('host')
for (const { batch, dispatches, hostMs, bareMs } of host?.rows ?? []) {
  row(
    `WebGPU decode step of ${host.layers} layers, batch ${batch}, processor time of the host`,
    `${number(hostMs, 2)} ms, ${dispatches} dispatches; ${number(bareMs, 2)} ms for as many bare calls of Dawn's Node binding`,
    'npm run bench -- host',
  )
}
for (const [name, quantization, label] of [
  ['gemma-3-270m-q4_k_m', 'none', 'Gemma 3 270M Q4_K_M'],
  ['mini-1m', 'q8', 'bundled model in q8'],
  ['mini-1m', 'q4', 'bundled model in q4'],
]) {
  const quality = results(`quality-${name}-${quantization}`)
  if (quality === null) continue
  const parts = quality.rows
    .filter(({ device }) => device !== 'reference')
    .map(({ device, changePercent }) => `${device} ${changePercent > 0 ? '+' : ''}${number(changePercent, 2)} %`)
  row(
    `perplexity with int8 activations over float64 sums, ${label}, ${quality.tokens} tokens`,
    parts.join(', '),
    'npm run bench -- quality',
  )
}

const [one, sixteen] = ['1 clients', '16 clients'].map((label) =>
  results('serve-closed').rows.find((found) => found.label === label),
)
const scaling = sixteen.outputTokensPerSecond / one.outputTokensPerSecond
row(
  'bundled model over HTTP, 16 clients over 1',
  `${number(sixteen.outputTokensPerSecond)} over ${number(one.outputTokensPerSecond)} tokens/s, ${number(scaling, 1)} ×`,
  'npm run bench -- serve --only closed',
)
const engine = results('engine')
if (engine !== null) {
  const { scheduleMicros, delivery, http } = engine
  const busiest = http.find(({ concurrency }) => concurrency === 16)
  row(
    `schedule + commit, ${scheduleMicros.sequences} sequences, p50`,
    `${number(scheduleMicros.p50)} µs`,
    'npm run bench -- engine',
  )
  row(
    'delivery (detokenize, stops, SSE) per token, p50',
    `${number(delivery.perTokenMicros.p50, 1)} µs; the serving thread in all, sockets included, ${number(busiest.cpuMicrosPerToken)} µs at 16 streams`,
    'npm run bench -- engine',
  )
}
const { prefix } = results('serve-prefix')
row(
  `time to first token, shared prefix of ${number(prefix.tokens)} tokens`,
  `${number(prefix.coldTtftMs)} ms cold, ${number(prefix.warmTtftMs)} ms warm`,
  'npm run bench -- serve --only prefix',
)
const tiers = results('serve-tiers')?.tiers
if (tiers !== undefined) {
  const of = (tier) => `${number(tiers[tier].ttftMs)} ms`
  row(
    `the same of ${number(tiers.tokens)} tokens after a restart`,
    `${of('cold')} cold, ${of('disk')} from disk, ${of('host')} from host memory, ${of('pool')} from the pool`,
    'npm run bench -- serve --only tiers',
  )
}
const runAhead = [
  ['one client', results('serve-runahead-1')],
  ['16 clients', results('serve-runahead-16')],
].flatMap(([who, measured]) => {
  const percent = measured?.runahead.differencePercent
  return percent === undefined ? [] : [`${percent > 0 ? '+' : ''}${number(percent, 1)} % with ${who}`]
})
if (runAhead.length > 0) {
  row(
    'throughput with run-ahead over without, three rounds each',
    runAhead.join(', '),
    'npm run bench -- serve --only runahead --clients 1',
  )
}
const starts = results('load')
const peerStart = starts?.rows.find(({ name }) => name === 'llama-server')
if (peerStart !== undefined) {
  const of = ({ seconds, peakBytes }) =>
    `${number(seconds, 2)} s (${number(seconds / peerStart.seconds, 2)} ×) and ${number(peakBytes / peerStart.peakBytes, 2)} × its memory`
  const [first, packed] = starts.rows
  row(
    'Gemma 3 270M in Q4_K_M, start to ready, cpu, over llama-server on the same file',
    `the first time ${of(first)}, later ${of(packed)}`,
    'npm run bench -- load --model GEMMA --peer LLAMA_SERVER --rounds 9',
  )
}
for (const { clients, tokensPerSecond, itlP95, ttftP50 } of results('serve-peers')?.ratios ?? []) {
  row(
    `Gemma 3 270M in Q4_K_M, ${clients} clients, cpu, over llama-server on the same file`,
    `${number(tokensPerSecond, 2)} × tokens/s, ${number(itlP95, 2)} × p95 between tokens, ${number(ttftP50, 2)} × time to first token`,
    'npm run bench -- serve --only peers --device cpu --concurrency 4,16 --model GEMMA --peer LLAMA_SERVER',
  )
}
const speculation = results('serve-speculation')?.speculation
if (speculation !== undefined) {
  const gain = (text) =>
    `${speculation[text].differencePercent > 0 ? '+' : ''}${number(speculation[text].differencePercent)} %`
  row(
    'prompt-lookup speculation on over off, Gemma 3 270M, one client, cpu',
    `text that copies ${gain('copied')}, greedy ${gain('greedy')}, sampled ${gain('drawn')}`,
    'npm run bench -- serve --only speculation --clients 1 --model GEMMA',
  )
}
const { tracing } = results('serve-tracing')
row(
  'throughput with tracing on over off, 4 clients, mean of eight pairs of rounds',
  `${tracing.differencePercent > 0 ? '+' : ''}${number(tracing.differencePercent, 1)} %; the pairs differ by up to ${number(tracing.spreadPercent)} points`,
  'npm run bench -- serve --only tracing',
)
const { throughExporter } = results('tracing')
row(
  'traces through the exporter',
  `${number(throughExporter['requests a second'])}/s, ${throughExporter.dropped} dropped`,
  'npm run bench -- tracing',
)
const rag = results('rag')
const RAG = 'npm run bench -- rag'
const { systems } = rag.yardstick.results
const recalls = ({ all }) => `${number(all.recallAt1 * 100)} % / ${number(all.recallAt5 * 100)} %`
row(
  `right document first / among five, ${systems.product.all.questions} questions over Debian's documentation`,
  `${recalls(systems.product)}; BM25 alone ${recalls(systems['BM25 alone'])}, embedder alone ${recalls(systems['embedder alone'])}`,
  `${RAG} yardstick`,
)
const encoder = rag['yardstick all-MiniLM-L6-v2'].results.systems
row(
  'the same with `--embedding-model` all-MiniLM-L6-v2',
  `${recalls(encoder.product)}; embedder alone ${recalls(encoder['embedder alone'])}`,
  `${RAG} yardstick --embedding-model FOLDER`,
)
const found = (chunks, system) =>
  rag.search.results.rows.find((entry) => entry.chunks === chunks && entry.system === system)
row(
  'ingestion, chunks embedded and stored',
  `${number(rag.ingest.results.chunksPerSecond)}/s, event loop lag p99 ${number(rag.ingest.results.eventLoopLagP99Ms, 1)} ms`,
  RAG,
)
row(
  'exact search in 100,000 chunks, p50',
  `${number(found(100_000, 'miniserve, exact').p50Ms, 1)} ms; usearch exact ${number(found(100_000, 'usearch, exact').p50Ms, 1)} ms, sqlite-vec ${number(found(100_000, 'sqlite-vec, exact').p50Ms, 1)} ms`,
  RAG,
)
const { passages, openSeconds, grownMiB, queryCpuMs, queryMs } = rag.large.results
row(
  `an index of ${number(passages)} passages: opened, memory, a query from text to passages`,
  `${number(openSeconds, 1)} s, ${number(grownMiB)} MiB, ${number(queryCpuMs)} ms of processor time (p50 ${number(queryMs.p50)} ms at a load average of ${number(rag.large.hardware.loadAverage[0])})`,
  `${RAG} large`,
)
const [without, cold, warm] = rag.ttft.results.rows
row(
  'time to first token without retrieval, with, asked again, p50',
  `${number(without.p50Ms, 1)} ms, ${number(cold.p50Ms)} ms, ${number(warm.p50Ms)} ms`,
  RAG,
)
const [answers] = read('experiments/rag-answers/results.json').models['the bundled model'].results
row(
  'whole pipeline, 100 hand-written questions, bundled models',
  `document found ${number(answers.documentFound * 100)} %, answered and cited ${number(answers.cited * 100)} %`,
  'node experiments/rag-answers/evaluate.mjs',
)

const measured = `Measured on ${start.hardware.cores} cores of an ${start.hardware.cpu} virtual machine with Node ${start.node} on
${start.date.slice(0, 10)}.`

/** Replaces what stands between the markers of a section of a document. */
function rewrite(path, lines, name = 'numbers') {
  const file = join(root, path)
  const text = readFileSync(file, 'utf8')
  const marked = new RegExp(`(<!-- ${name} -->\\n)[\\s\\S]*?(<!-- end -->)`)
  if (!marked.test(text)) throw new Error(`${path} has no section "${name}"`)
  writeFileSync(
    file,
    text.replace(marked, (_, open, close) => `${open}\n${lines.join('\n')}\n\n${close}`),
  )
}

rewrite('docs/benchmarks.md', [
  `${measured}`,
  'The JSON is in `bench/results/`.',
  '',
  '| what | measured | command |',
  '|---|---|---|',
  ...rows,
])
const cpu = start.results.find(({ device }) => device === 'cpu')
const q8 = results('model-cpu-smollm2-135m-q8').rows.find(({ batch }) => batch === 1).results
const decodeRatio = q8[0].decodeTokensPerSecond / q8[1].decodeTokensPerSecond
rewrite('README.md', [
  measured,
  '',
  '| | |',
  '|---|---|',
  `| start to ready, bundled model | ${number(cpu.readySeconds, 1)} s |`,
  `| a model of SmolLM2-135M's size, random weights, Q8_0, 2 CPU cores, decode | ${number(q8[0].decodeTokensPerSecond)} tokens/s, ${number(decodeRatio, 2)} × ${q8[1].name} |`,
  `| first token, shared prefix of ${number(prefix.tokens)} tokens | ${number(prefix.coldTtftMs)} ms cold, ${number(prefix.warmTtftMs)} ms cached |`,
  `| cost of tracing in throughput, 4 clients | ${number(Math.max(0, -tracing.differencePercent), 1)} %; pairs of rounds differ by up to ${number(tracing.spreadPercent)} points |`,
  '| on a graphics card | not measured: no card was available |',
])

const shapes = read('bench/lib/shapes.json')
const kibibytes = ({ layers, kvHeads, headDim }) => (2 * layers * kvHeads * headDim * 2) / 1024
rewrite(
  'docs/capacity.md',
  [
    '| model | KV cache per token | a sequence of 4,096 tokens |',
    '|---|---|---|',
    ...['SmolLM2-135M', 'Qwen2.5-0.5B', 'Llama-3.2-1B', 'Llama-3.1-8B'].map((model) => {
      const each = kibibytes(shapes[model.toLowerCase()])
      return `| ${model} | ${number(each)} KiB | ${number((each * 4096) / 1024)} MiB |`
    }),
  ],
  'memory',
)
const costs = results('tracing')
const ttftOf = (request) => rag.ttft.results.rows.find((entry) => entry.request === request).p50Ms
const perRequest = Object.fromEntries(costs.perRequest.map((entry) => [entry.variant, entry['CPU µs per request']]))
rewrite(
  'docs/capacity.md',
  [
    `${measured}`,
    '',
    '| what | cost |',
    '|---|---|',
    `| a request's spans, log lines and export | ${number(perRequest['spans, store, logs, export'])} µs |`,
    `| a trace in memory, in the log, in an export | ${number(costs.bytesPerRequest['store (estimate)'])}, ${number(costs.bytesPerRequest['log lines'])}, ${number(costs.bytesPerRequest['OTLP protobuf'])} bytes |`,
    `| planning a step of ${engine.scheduleMicros.sequences} sequences | ${number(engine.scheduleMicros.p50)} µs |`,
    `| the serving thread per token at 16 streams, sockets included | ${number(engine.http.find(({ concurrency }) => concurrency === 16).cpuMicrosPerToken)} µs |`,
    `| documents: cutting, embedding and storing | ${number(rag.ingest.results.chunksPerSecond)} chunks per second |`,
    `| 1,000 chunks with the bundled embedder, in memory, on disk | ${number((1000 * grownMiB) / passages, 1)}, ${number((1000 * rag.large.results.fileMiB) / passages, 1)} MiB |`,
    `| a query in ${number(passages)} chunks, from its text to passages | ${number(queryCpuMs)} ms of processor time |`,
    `| what retrieval adds to the time to first token in a small index, the longer prompt of the bundled model included, p50 | ${number(ttftOf('retrieval, new question (cold)') - ttftOf('no retrieval'))} ms |`,
    `| a search in 100,000 chunks, p50 | ${number(found(100_000, 'miniserve, exact + BM25').p50Ms, 1)} ms |`,
  ],
  'costs',
)
/** Kinds of servers whose predictions were checked, with what they are called. */
const plans = Object.entries({
  paced: 'a simulated device',
  tiny: 'the bundled model on cpu',
  gemma: 'Gemma 3 270M in Q4_K_M on cpu',
}).flatMap(([name, title]) => {
  const plan = results(`plan-${name}`)
  return plan === null ? [] : [{ ...plan, title }]
})
const describe = ({ rate, clients, promptTokens, sharedTokens, outputTokens }) =>
  `${rate === null ? `${clients} client${clients === 1 ? '' : 's'}` : `${rate} requests/s`}, ${promptTokens} + ${outputTokens} tokens` +
  (sharedTokens > 0 ? `, ${sharedTokens} shared` : '')
rewrite(
  'docs/capacity.md',
  plans
    .flatMap(({ title, paced, rows: checked, hardware }) => [
      `Predicted over measured, on ${title}${paced === undefined ? '' : ` (${paced.replaceAll(',', ', ')} ms per step, row and prompt token)`},`,
      `at a load average of ${number(hardware.loadAverage[0])} on ${hardware.cores} cores:`,
      '',
      '| traffic | tokens/s | TTFT p50, ms | time per token p50, ms | largest difference |',
      '|---|---|---|---|---|',
      ...checked.map(({ traffic, predicted, measured: real, differencePercent: off }) => {
        const pair = (of, digits = 0) => `${number(of(predicted), digits)} over ${number(of(real), digits)}`
        const cells = [pair((m) => m.outputTokensPerSecond), pair((m) => m.ttftMs.p50), pair((m) => m.tpotMs.p50, 1)]
        const largest = [off.outputTokensPerSecond, off.ttftP50, off.tpotP50].toSorted(
          (x, y) => Math.abs(y) - Math.abs(x),
        )[0]
        return `| ${describe(traffic)} | ${cells.join(' | ')} | ${number(largest)} % |`
      }),
      '',
    ])
    .slice(0, -1),
  'prediction',
)
const stores = [100_000, 1_000_000]
  .map((chunks) => results(`pgvector-${chunks}`))
  .filter((store) => store?.searches !== undefined)
rewrite(
  'docs/capacity.md',
  stores
    .flatMap(({ chunks, dimensions, hardware, postgres, pgvector, insertion, build, mebibytes, searches }) => [
      `${number(chunks)} chunks of ${dimensions} dimensions, PostgreSQL ${postgres.split(' ')[0]}, pgvector ${pgvector}, at a load average of`,
      `${number(hardware.loadAverage[0])} on ${hardware.cores} cores: ${insertion === undefined ? '' : `${number(insertion.chunksPerSecond)} chunks per second inserted, `}HNSW built in`,
      `${number(build.hnswSeconds)} s. MiB: chunks ${number(mebibytes.chunks)}, HNSW ${number(mebibytes.hnsw)}, GIN ${number(mebibytes.gin)}.`,
      '',
      '| filter lets through | results | recall | by vector, p50 / p95 ms | with words, p50 / p95 ms |',
      '|---|---|---|---|---|',
      ...searches
        .filter(({ depth }) => depth === 50 || depth === 1000)
        .map(({ filter, depth, recall, vectorMs, withTextMs }) => {
          const pair = ({ p50, p95 }) => `${number(p50)} / ${number(p95)}`
          const name = filter === 'no filter' ? 'all' : filter
          return `| ${name} | ${number(depth)} | ${number(recall, 3)} | ${pair(vectorMs)} | ${pair(withTextMs)} |`
        }),
      '',
    ])
    .slice(0, -1),
  'pgvector',
)

// What a decoded token costs a GPU, by counting.
const counts = results('counts')
if (counts !== null) {
  const mebi = (bytes) => number(bytes / 2 ** 20, bytes < 2 ** 27 ? 1 : 0)
  rewrite(
    'docs/benchmarks.md',
    [
      `A decode step on WebGPU with ${number(counts.context)} tokens of context in each sequence: what is dispatched, and`,
      'what is read of weights and of K and V in f16. `npm run bench -- counts` counts it on a GPU that is not there: it is no',
      'measurement of time.',
      '',
      '| model | weights | sequences | dispatches | weights, MiB | K and V, MiB | MiB per token |',
      '|---|---|---|---|---|---|---|',
      ...counts.rows.map(({ model, weights, batch, dispatches, weightBytes, kvBytes, bytesPerToken }) => {
        const sizes = [weightBytes, kvBytes, bytesPerToken].map(mebi)
        return `| ${[model, weights, batch, dispatches, ...sizes].join(' | ')} |`
      }),
    ],
    'counts',
  )
}

// Files of one model in the quantisations that llama-quantize makes, and types of its KV cache.
const quantisations = results('quantisations-gemma-3-270m')
if (quantisations !== null) {
  const kvTypes = results('kv-types-gemma-3-270m')
  const signed = (value) => `${value > 0 ? '+' : ''}${number(value, 2)} %`
  const [{ tokens }] = quantisations.rows
  rewrite(
    'docs/models.md',
    [
      `Gemma 3 270M, ${number(tokens)} scored tokens of this project's documentation in windows of`,
      `${quantisations.context}, on cpu, by \`npm run bench -- quantisations\`. llama-perplexity reads the same file and text. The F16 file`,
      'has the values of a published Q4_K_M file, so that this type loses next to nothing here; a standard error is a sixth.',
      '',
      '| file | MiB | perplexity | over F16 | llama.cpp | here over llama.cpp |',
      '|---|---|---|---|---|---|',
      ...quantisations.rows.map((each) => {
        const sizes = [number(each.bytes / 2 ** 20), number(each.perplexity, 2), signed(each.changePercent)]
        return `| ${[each.type, ...sizes, number(each.llamaPerplexity, 2), signed(each.overLlamaPercent)].join(' | ')} |`
      }),
      ...(kvTypes?.rows ?? []).map(
        ({ type, perplexity, changePercent }) =>
          `| F16, KV cache in ${type} | | ${number(perplexity, 2)} | ${signed(changePercent)} | | |`,
      ),
    ],
    'quantisations',
  )
}
