// The cpu backend's matrix products: microseconds, 10^9 multiply-adds a second and thread, GB/s of weights, for each format, shape and number of rows.
import { createCpuBackend } from '#dist/kernels/cpu/backend.js'
import { measureReadBandwidth } from './bandwidth/measure.mjs'

const LIMITS = { maxRows: 512, maxSequences: 1, maxSampleRows: 1, maxBlocksPerSequence: 32 }

/** The best of `rounds` steps of four calls; kernels are traced, so that only they are timed. */
async function best(backend, call, input, rounds) {
  let micros = Infinity
  for (let round = 0; round < rounds; round++) {
    backend.beginStep(input)
    for (let i = 0; i < 4; i++) call()
    const { kernels } = await backend.endStep()
    micros = Math.min(micros, kernels[0].micros / 4)
  }
  return micros
}

/**
 * @param matrices [name, outputs, inputs] of each shape
 * @param weights (format, rows, cols) => data of a matrix
 */
export async function benchCpuKernels({ matrices, formats, rowCounts, rounds, threads, weights, bytesOf }) {
  const results = []
  /** @type {any} */
  let info = null
  for (const kernels of /** @type {const} */ (['relaxed', 'dots', 'plain'])) {
    const backend = await createCpuBackend({
      limits: LIMITS,
      traceKernels: true,
      threads,
      kernels,
    })
    info ??= backend.info
    backend.createKvCache({ numBlocks: 32, blockSize: 16, layers: [{ numKvHeads: 1, headDim: 64 }] })
    for (const format of formats) {
      for (const [name, outputs, inputs] of matrices) {
        const w = await backend.loadMatrix(name, outputs, inputs, weights(format, outputs, inputs))
        const x = backend.createActivation('x', inputs)
        const out = backend.createActivation('out', outputs)
        await backend.ready()
        backend.debugWrite(
          x,
          Float32Array.from({ length: LIMITS.maxRows * inputs }, (_, i) => Math.sin(i)),
        )
        for (const rows of rowCounts) {
          const input = {
            numRows: rows,
            numSequences: 1,
            tokens: new Int32Array(rows),
            positions: new Int32Array(rows),
            slots: new Int32Array(rows),
            sequenceStarts: Int32Array.of(0, rows),
            blockTables: new Int32Array(LIMITS.maxBlocksPerSequence),
            maxBlocksPerSequence: LIMITS.maxBlocksPerSequence,
          }
          const micros = await best(backend, () => backend.linear(out, x, w, {}), input, rounds)
          const perSecond = (outputs * inputs * rows) / micros / 1e3
          results.push({
            simd: kernels,
            format,
            kernel: name,
            shape: `${outputs}x${inputs}`,
            rows,
            micros: Math.round(micros),
            'GMAC/s/thread': Number((perSecond / threads).toFixed(1)),
            'GB/s': Number(((outputs * inputs * bytesOf[format]) / micros / 1e3).toFixed(1)),
          })
        }
      }
    }
    await backend.close()
  }
  return { adapter: info.adapter, driver: info.driver, readBandwidth: await measureReadBandwidth(threads), results }
}
