/** Measures tiles through the very steps that will use them. */
import type { Handles } from '../handles.ts'
import type { InspectableBackend } from '../inspect.ts'
import type { Activation, BackendLimits, Matrix } from '../ops.ts'
import type { Bindings, GpuActivation } from './context.ts'
import { type LinearKernels, shapeKey } from './linear.ts'
import type { GpuMatrix, MatrixLoader } from './matrix.ts'
import { loadProbe, probeError, probeValues, rowsAlone, type Probe } from './tune-probe.ts'
import { applyTuning, readTuning, tune, type TuningResult, writeTuning } from './tune.ts'

/** Calls of a measured step: their time over their number is what one takes. */
const CALLS = 4

/** What of a backend is measured. Probes and their activations are added to its handles, and taken out again. */
export interface TileMeasurement {
  readonly backend: InspectableBackend
  readonly linear: LinearKernels
  readonly bindings: Bindings
  readonly matrices: Handles<Matrix, GpuMatrix>
  readonly activations: Handles<Activation, GpuActivation>
  readonly loader: MatrixLoader
  readonly limits: BackendLimits
  /** Folder of remembered results; null: none are kept. */
  readonly cacheDir: string | null
  /** Measure, whatever is remembered. */
  readonly retune: boolean
}

/** Puts tiles in force: measured now when asked, else as remembered, else the defaults. */
export async function chooseTiles(target: TileMeasurement): Promise<void> {
  const { backend, cacheDir, linear, matrices, retune } = target
  if (retune) {
    const result = await measureTiles(target)
    if (cacheDir !== null) await writeTuning(cacheDir, result)
    return
  }
  const remembered = cacheDir === null ? null : await readTuning(cacheDir, backend.info.adapter, backend.info.driver)
  if (remembered !== null) applyTuning(linear, matrices.values(), remembered)
}

/** The fastest correct tile of every distinct shape; they are in force afterwards. */
async function measureTiles(target: TileMeasurement): Promise<TuningResult> {
  const { activations, backend, bindings, limits, linear, loader, matrices } = target
  const scratch = new Map<string, Activation>()
  const activation = (role: string, cols: number): Activation => {
    const key = `${role} ${cols}`
    const found = scratch.get(key) ?? backend.createActivation(`tuning ${key}`, cols)
    scratch.set(key, found)
    return found
  }
  const run = async (matrix: GpuMatrix, values: Float32Array, numRows: number, calls: number) => {
    const isGated = matrix.gluRun > 0
    const x = activation('x', matrix.cols)
    const out = activation('out', isGated ? matrix.rows / 2 : matrix.rows)
    backend.debugWrite(x, values)
    backend.beginStep(rowsAlone(numRows, limits.maxBlocksPerSequence))
    for (let i = 0; i < calls; i++) backend.linear(out, x, matrix, isGated ? { glu: 'silu' } : {})
    const started = performance.now()
    const { gpuMicros } = await backend.endStep()
    const micros = (gpuMicros ?? (performance.now() - started) * 1000) / calls
    return { micros, out: await backend.debugRead(out) }
  }
  const probes = new Map<string, Probe>()
  try {
    return await tune({
      adapter: backend.info.adapter,
      driver: backend.info.driver,
      linear,
      matrices: matrices.values(),
      maxRows: limits.maxRows,
      run: async (matrix, numRows) => {
        const { micros, out } = await run(matrix, probeValues(numRows * matrix.cols), numRows, CALLS)
        return { micros, output: new Uint32Array(out.buffer, 0, numRows * (out.length / limits.maxRows)) }
      },
      error: async (like, numRows) => {
        const key = `${like.format} ${like.form.GROUP} ${like.form.MINS} ${like.gluRun}`
        const probe = probes.get(key) ?? (await loadProbe(loader, like))
        probes.set(key, probe)
        matrices.add(probe.matrix)
        // The tiles in force are the real matrix's: the small one takes them over.
        linear.tuned.set(shapeKey(probe.matrix, linear.bucket(numRows)), linear.variant(like, numRows))
        const values = probeValues(numRows * probe.matrix.cols)
        const { out } = await run(probe.matrix, values, numRows, 1)
        return probeError(probe, values, out, numRows)
      },
    })
  } finally {
    for (const { matrix } of probes.values()) {
      matrices.delete(matrix)
      for (const { codes, scales } of matrix.shards) {
        codes.destroy()
        scales.destroy()
      }
    }
    // Bind groups hold their buffers.
    bindings.clear()
    for (const handle of scratch.values()) {
      const own = activations.get(handle)
      activations.delete(own)
      own.buffer.destroy()
    }
  }
}
