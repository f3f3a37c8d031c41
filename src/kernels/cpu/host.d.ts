/** The WebAssembly side of the cpu backend: detection, memories, instances. Plain JavaScript because pool workers load it without a compiler. */

export interface Memory {
  readonly buffer: SharedArrayBuffer
  /** Adds 64 KiB pages; throws a RangeError when the limit or the machine's memory is reached. */
  grow(pages: number): number
}

/** A compiled module; only to be handed to `instantiate`, here or in a worker. */
export interface Module {
  readonly compiledModule: never
}

/** One thread's instance for one memory. */
export interface Exports {
  /** Before anything else. */
  start(control: number, thread: number, numThreads: number): void
  /** The coordinating thread: sets the program of `length` commands to run in this memory, on all threads or (`alone` 1) on this one. */
  setProgram(program: number, length: number, alone: 0 | 1): void
  /** The coordinating thread, in the first memory: gives the program set in memory `memory` to the other threads. */
  announce(memory: number): void
  /** This thread's share of the program set in this memory. */
  execute(): void
  /** The other threads, in the first memory: runs programs until the pool is stopped. */
  serve(epoch: number): void
}

/** assembly/probe.ts: each product as often as `repeats` says. */
export interface Probe {
  quadOfRows(repeats: number): void
  oneRow(repeats: number): void
}

/** Whether this runtime compiles relaxed SIMD. */
export function hasRelaxedSimd(): boolean
/** A shared memory of up to 4 GiB of address space, `pages` of it committed. */
export function createMemory(pages: number): Memory
export function compile(bytes: Uint8Array): Promise<Module>
/** Compiles at once; for a module of a few functions. */
export function openProbe(bytes: Uint8Array): Probe
/** @param executeIn runs this thread's share of a program in another memory, by the memory's index */
export function instantiate(module: Module, memory: Memory, executeIn: (memory: number) => void): Exports
