/** WebAssembly access of the cpu backend: feature detection, memories, instances. Plain JavaScript, because pool workers load it without a compiler. */

export interface Memory {
  readonly buffer: SharedArrayBuffer
  /** Adds pages of 64 KiB. @throws RangeError when the limit or the machine's memory is reached */
  grow(pages: number): number
}

/** A compiled module. Opaque: pass it to `instantiate`, in this thread or in a worker. */
export interface Module {
  readonly compiledModule: never
}

/** One thread's instance for one memory. */
export interface Exports {
  /** Call first. */
  start(control: number, thread: number, numThreads: number): void
  /** On the coordinating thread: sets the program of `length` commands to run in this memory, on all threads, or with `alone` 1 on this one. */
  setProgram(program: number, length: number, alone: 0 | 1): void
  /** On the coordinating thread, in the first memory: tells the other threads to run the program set in memory `memory`. */
  announce(memory: number): void
  /** Runs this thread's share of the program set in this memory. */
  execute(): void
  /** On the other threads, in the first memory: runs programs until the pool is stopped. */
  serve(epoch: number): void
}

/** assembly/probe.ts: each product as often as `repeats` says. */
export interface Probe {
  quadOfRows(repeats: number): void
  oneRow(repeats: number): void
}

/** Whether this runtime compiles relaxed SIMD. */
export function hasRelaxedSimd(): boolean
/** Creates a shared memory of `pages` pages that can grow to 4 GiB. */
export function createMemory(pages: number): Memory
export function compile(bytes: Uint8Array): Promise<Module>
/** Compiles at once; for a module of a few functions. */
export function openProbe(bytes: Uint8Array): Probe
/** @param executeIn called with a memory's index to run this thread's share of the program set in that memory */
export function instantiate(module: Module, memory: Memory, executeIn: (memory: number) => void): Exports
