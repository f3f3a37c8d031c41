// The thread pool. All threads run the same program in lock step: each op hands out its work units through an atomic counter and ends with a
// barrier. At a barrier or between programs, threads spin for some tens of microseconds, then sleep. With several memories, a thread has an instance
// of this module per memory. It waits for programs in the first memory; barriers are in the memory of the program.

/** Words of the control block at the address given to `start`: 32 bits each, each on its own cache line. */
const EPOCH: usize = 0
const STOP: usize = 4
const SLEEPERS: usize = 64
const ARRIVED: usize = 128
const GENERATION: usize = 192
const BLOCKED: usize = 256
const FAULT: usize = 320
export const PROGRAM: usize = 384
const LENGTH: usize = 388
/** Index of the program's memory. */
const MEMORY: usize = 392

const SPINS: i32 = 20000

let control: usize = 0
export let thread: i32 = 0
export let numThreads: i32 = 1
/** True while the coordinating thread runs a program alone. */
let solo: bool = false
/** Address of this thread's scratch memory. Every program sets it, because scratch memory may have grown. */
export let scratch: usize = 0

export function start(address: usize, index: i32, count: i32): void {
  control = address
  thread = index
  numThreads = count
}

export function setScratch(base: usize, bytesPerThread: usize): void {
  scratch = base + <usize>thread * bytesPerThread
}

/** The next work unit of an op: `counter` starts at 0, and every value is handed out once. */
// @ts-ignore: decorator
@inline
export function takeUnits(counter: usize, count: i32): i32 {
  return atomic.add<i32>(counter, count)
}

/** Waits until all threads have arrived. Traps when another thread has failed, because its share would never be done. */
export function barrier(): void {
  if (numThreads == 1 || solo) return
  const generation = atomic.load<i32>(control + GENERATION)
  if (atomic.add<i32>(control + ARRIVED, 1) == numThreads - 1) {
    atomic.store<i32>(control + ARRIVED, 0)
    atomic.add<i32>(control + GENERATION, 1)
    if (atomic.load<i32>(control + BLOCKED) > 0) atomic.notify(control + GENERATION, -1)
    return
  }
  for (let i = 0; i < SPINS; i++) {
    if (atomic.load<i32>(control + GENERATION) == generation) continue
    // A failing thread also releases the others from the barrier. Without its share there is no result, so they trap too.
    if (atomic.load<i32>(control + FAULT) != 0) unreachable()
    return
  }
  atomic.add<i32>(control + BLOCKED, 1)
  while (atomic.load<i32>(control + GENERATION) == generation && atomic.load<i32>(control + FAULT) == 0) {
    atomic.wait<i32>(control + GENERATION, generation, -1)
  }
  atomic.sub<i32>(control + BLOCKED, 1)
  if (atomic.load<i32>(control + FAULT) != 0) unreachable()
}

/** Sets the program to run in this memory, on all threads or only on this one. */
export function setProgram(program: usize, length: i32, alone: bool): void {
  store<usize>(control + PROGRAM, program)
  store<i32>(control + LENGTH, length)
  solo = alone
}

/** Call in the first memory: tells the other threads to run the program set in memory `memory`. */
export function announce(memory: i32): void {
  if (numThreads == 1) return
  store<i32>(control + MEMORY, memory)
  atomic.add<i32>(control + EPOCH, 1)
  if (atomic.load<i32>(control + SLEEPERS) > 0) atomic.notify(control + EPOCH, -1)
}

/** Waits for a program after number `epoch`, or for the pool to stop. Returns the new program's number, which wraps around. */
export function awaitProgram(epoch: i32): i32 {
  for (let i = 0; i < SPINS; i++) {
    if (atomic.load<i32>(control + EPOCH) != epoch) break
  }
  if (atomic.load<i32>(control + EPOCH) == epoch) {
    atomic.add<i32>(control + SLEEPERS, 1)
    while (atomic.load<i32>(control + EPOCH) == epoch) atomic.wait<i32>(control + EPOCH, epoch, -1)
    atomic.sub<i32>(control + SLEEPERS, 1)
  }
  return atomic.load<i32>(control + EPOCH)
}

export function isStopped(): bool {
  return atomic.load<i32>(control + STOP) != 0
}

// @ts-ignore: decorator
@inline
export function programMemory(): i32 {
  return load<i32>(control + MEMORY)
}

// @ts-ignore: decorator
@inline
export function programAddress(): usize {
  return load<usize>(control + PROGRAM)
}

// @ts-ignore: decorator
@inline
export function programLength(): i32 {
  return load<i32>(control + LENGTH)
}
