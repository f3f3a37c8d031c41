/**
 * Access to a backend's step buffers. Every backend of this project implements it: the conformance suite
 * (test/kernels/conformance.ts) compares single ops with the reference through it, and tools can dump activations with it.
 * The serving path never calls it.
 */
import type { Backend } from './backend.ts'
import type { Activation } from './ops.ts'

export interface InspectableBackend extends Backend {
  /**
   * Overwrites the first `values.length / activation.cols` rows of a step buffer with row-major f32 values. Call it between steps (before
   * `beginStep`); the next step's ops see the values.
   * @throws when there are too many values or not a whole number of rows
   */
  debugWrite(activation: Activation, values: Float32Array): void
  /** All rows of a step buffer, [maxRows, cols] f32, after every step that has ended so far. */
  debugRead(activation: Activation): Promise<Float32Array>
}
