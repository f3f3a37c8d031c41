/** One memory of the cpu backend and the recorders of its ops. Most models need a single one. */
import type { BackendOptions } from '../backend.ts'
import type { Arena } from './arena.ts'
import type { Executor } from './executor.ts'
import { LowRankOps } from './low-rank-ops.ts'
import { Staging, type PackingSpace } from './matrices.ts'
import { Output } from './output.ts'
import type { Program } from './program.ts'
import { Recorder } from './recorder.ts'
import { Resources, type Common } from './resources.ts'
import { RowOps } from './row-ops.ts'
import { StateOps } from './state-ops.ts'
import { StepInputs } from './step-inputs.ts'
import { WorkingMemory } from './working-memory.ts'

/** A memory with its ops, which compute only on data in this memory. resources.ts copies what a step needs from other memories. */
export class Shard implements PackingSpace {
  readonly index: number
  readonly arena: Arena
  readonly program: Program
  readonly staging: Staging
  readonly resources: Resources
  readonly memory: WorkingMemory
  readonly step: StepInputs
  readonly recorder: Recorder
  readonly rows: RowOps
  readonly states: StateOps
  readonly lowRank: LowRankOps
  readonly output: Output

  constructor(
    limits: BackendOptions['limits'],
    arena: Arena,
    program: Program,
    executor: Executor,
    common: Common,
    numThreads: number,
  ) {
    this.index = program.memory
    this.arena = arena
    this.program = program
    this.staging = new Staging(arena)
    const resources = new Resources(arena, this.index, common)
    this.resources = resources
    this.memory = new WorkingMemory(limits, arena, program, resources, numThreads)
    this.step = new StepInputs(limits, arena)
    this.recorder = new Recorder(program, executor, resources, this.step, this.memory, numThreads)
    this.rows = new RowOps(arena, program, executor, resources, this.step)
    this.states = new StateOps(program, executor, resources, this.step)
    this.lowRank = new LowRankOps(arena, program, executor, resources, this.step, limits.maxRows)
    this.output = new Output(limits, arena, this.recorder, executor)
  }

  /** Call once all weights are loaded. */
  ready(): void {
    this.memory.reuse(this.staging.take())
    this.memory.reserve()
    this.lowRank.ready()
  }
}
