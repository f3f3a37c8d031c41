// The worker pool. All threads run the same program in lock step: each op hands out its units of work through an atomic counter, and a barrier
// ends it. Threads spin for some tens of microseconds at a barrier or between programs, then sleep. Where there are several memories, a thread has an
// instance of this module for each; it waits for programs in the first memory, and meets the others at barriers in the memory of the program.

/** The control block, at the address given to `start`: 32-bit words on cache lines of their own. */
const EPOCH: usize = 0
const STOP: usize = 4
const SLEEPERS: usize = 64
const ARRIVED: usize = 128
const GENERATION: usize = 192
const BLOCKED: usize = 256
const FAULT: usize = 320
export const PROGRAM: usize = 384
const LENGTH: usize = 388
/** Index of the memory that the program is in. */
const MEMORY: usize = 392

const SPINS: i32 = 20000

let control: usize = 0
export let thread: i32 = 0
export let numThreads: i32 = 1
/** The coordinating thread is running a program by itself. */
let solo: bool = false
/** This thread's scratch space. Set by every program: it may have grown. */
export let scratch: usize = 0

export function start(address: usize, index: i32, count: i32): void {
  control = address
  thread = index
  numThreads = count
}

export function setScratch(base: usize, bytesPerThread: usize): void {
  scratch = base + <usize>thread * bytesPerThread
}

/** The next unit of an op: `counter` starts at 0 and every value is handed out once. */
// @ts-ignore: decorator
@inline
export function takeUnits(counter: usize, count: i32): i32 {
  return atomic.add<i32>(counter, count)
}

/** Waits until every thread is here. Traps when another thread has failed: its share would never come. */
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
    // A thread that failed lets the others go on as well: without its share there is no result.
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

/** Sets the program to run in this memory: on all threads, or on this one alone. */
export function setProgram(program: usize, length: i32, alone: bool): void {
  store<usize>(control + PROGRAM, program)
  store<i32>(control + LENGTH, length)
  solo = alone
}

/** In the first memory: gives the program that is set in memory `memory` to the other threads. */
export function announce(memory: i32): void {
  if (numThreads == 1) return
  store<i32>(control + MEMORY, memory)
  atomic.add<i32>(control + EPOCH, 1)
  if (atomic.load<i32>(control + SLEEPERS) > 0) atomic.notify(control + EPOCH, -1)
}

/** Waits for a program after the one counted `epoch`, or for the pool's end; the count, which wraps around. */
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
