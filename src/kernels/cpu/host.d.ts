/** The WebAssembly side of the cpu backend: detection, memory, instances. Plain JavaScript because pool workers load it without a compiler. */

export interface Memory {
  readonly buffer: SharedArrayBuffer
  /** Adds 64 KiB pages; throws a RangeError when the limit or the machine's memory is reached. */
  grow(pages: number): number
}

/** A compiled module; only to be handed to `instantiate`, here or in a worker. */
export interface Module {
  readonly compiledModule: never
}

export interface Exports {
  /** Once a thread, before anything else. */
  start(control: number, thread: number, numThreads: number): void
  /** The coordinating thread: runs `length` commands at `program` on all threads, or (`alone` 1) by itself. */
  run(program: number, length: number, alone: 0 | 1): void
  /** The other threads: runs programs until the pool is stopped. */
  serve(epoch: number): void
}

/** Whether this runtime compiles relaxed SIMD. */
export function hasRelaxedSimd(): boolean
/** A shared memory of up to 4 GiB of address space, `pages` of it committed. */
export function createMemory(pages: number): Memory
export function compile(bytes: Uint8Array): Promise<Module>
export function instantiate(module: Module, memory: Memory): Promise<Exports>
