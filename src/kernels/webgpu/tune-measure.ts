/** Measures tiles through the very steps that will use them. */
import type { InspectableBackend } from '../inspect.ts'
import type { Activation, BackendLimits } from '../ops.ts'
import { type LinearKernels, shapeKey } from './linear.ts'
import type { GpuMatrix } from './matrix.ts'
import { probeError, probeValues, rowsAlone, type Probe } from './tune-probe.ts'
import { tune, type TuningResult } from './tune.ts'

/** Calls of a measured step: their time over their number is what one takes. */
const CALLS = 4

export interface TileMeasurement {
  readonly backend: InspectableBackend
  readonly linear: LinearKernels
  readonly matrices: readonly GpuMatrix[]
  readonly limits: BackendLimits
  /** An activation that lives as long as the measurement. */
  createActivation(label: string, cols: number): Activation
  /** A small random matrix like the given one, known to the backend until it is dropped. */
  loadProbe(like: GpuMatrix): Promise<Probe>
  dropProbe(probe: Probe): void
}

/** The fastest correct tile of every distinct shape; they are in force afterwards. */
export async function measureTiles(target: TileMeasurement): Promise<TuningResult> {
  const { backend, limits, linear, matrices } = target
  const activations = new Map<string, Activation>()
  const activation = (role: string, cols: number): Activation => {
    const key = `${role} ${cols}`
    const found = activations.get(key) ?? target.createActivation(`tuning ${key}`, cols)
    activations.set(key, found)
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
      matrices,
      maxRows: limits.maxRows,
      run: async (matrix, numRows) => {
        const { micros, out } = await run(matrix, probeValues(numRows * matrix.cols), numRows, CALLS)
        return { micros, output: new Uint32Array(out.buffer, 0, numRows * (out.length / limits.maxRows)) }
      },
      error: async (like, numRows) => {
        const key = `${like.format} ${like.form.GROUP} ${like.form.MINS} ${like.gluRun}`
        const probe = probes.get(key) ?? (await target.loadProbe(like))
        probes.set(key, probe)
        // The tiles in force are the real matrix's: the small one takes them over.
        linear.tuned.set(shapeKey(probe.matrix, linear.bucket(numRows)), linear.variant(like, numRows))
        const values = probeValues(numRows * probe.matrix.cols)
        const { out } = await run(probe.matrix, values, numRows, 1)
        return probeError(probe, values, out, numRows)
      },
    })
  } finally {
    for (const probe of probes.values()) target.dropProbe(probe)
  }
}
