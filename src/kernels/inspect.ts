/**
 * A backend whose step buffers can be set and read from outside. Every backend of this project is one: the conformance suite
 * (test/kernels/conformance.ts) holds single ops against the reference through it, and tools may dump activations with it.
 * The serving path never calls it.
 */
import type { Backend } from './backend.ts'
import type { Activation } from './ops.ts'

export interface InspectableBackend extends Backend {
  /**
   * Overwrites the leading `values.length / activation.cols` rows of a step buffer with row-major f32 values. To be called between
   * steps (before `beginStep`); ordered before the ops of the next step. Throws when the values are no whole number of rows or too many.
   */
  debugWrite(activation: Activation, values: Float32Array): void
  /** All rows of a step buffer, [maxRows, cols] f32, as they are after every step ended so far. */
  debugRead(activation: Activation): Promise<Float32Array>
}
