// The module's entry points. A thread has one instance per memory and calls `start` of each once. To run a program, the coordinating thread calls
// `setProgram` in the program's memory, `announce` in the first memory and `execute` in the program's. The other threads call `serve` in the first.
import { attention } from './attention'
import { headProducts, HeadProductsCommand } from './attention-bias'
import { AttentionCommand } from './attention-kv'
import { embed, EmbedCommand, layerNorm, LayerNormCommand, normAdd, NormAddCommand, qkvRopeStore, QkvCommand } from './elementwise'
import { combine, CombineCommand, route, RouteCommand, sortRows, SortCommand } from './experts'
import { matchLength, MatchLengthCommand, pair, PairCommand, rmsNorm, RmsNormCommand, sparseGelu, SparseGeluCommand, streams, StreamsCommand } from './rows'
import { linear, LinearCommand } from './linear'
import { activate, ActivateCommand, lowRankDown, lowRankUp, LowRankCommand } from './low-rank'
import { pack, PackCommand } from './pack'
import {
  convolution,
  ConvolutionCommand,
  gateNorm,
  GateNormCommand,
  scan,
  ScanCommand,
  sigmoidGate,
  SigmoidGateCommand,
} from './recurrence'
import { sample, SampleCommand } from './sample'
import { score, ScoreCommand } from './score'
import {
  awaitProgram,
  barrier,
  isStopped,
  programAddress,
  programLength,
  programMemory,
  setScratch,
  start as startThread,
} from './pool'
export { announce, setProgram } from './pool'

/** Calls `execute` of this thread's instance for another memory. */
// @ts-ignore: decorator
@external('env', 'executeIn')
declare function executeIn(memory: i32): void

/** Bytes of a command. */
const COMMAND: usize = 128
/** Bytes of a program's header: the address of the scratch memory, and its bytes per thread. */
const HEADER: usize = 64

export function start(control: usize, thread: i32, numThreads: i32): void {
  startThread(control, thread, numThreads)
}

/** Runs programs until the pool is stopped. `epoch`: the number of programs announced when the thread was created. */
export function serve(epoch: i32): void {
  for (;;) {
    epoch = awaitProgram(epoch)
    if (isStopped()) return
    const memory = programMemory()
    if (memory == 0) execute()
    else executeIn(memory)
  }
}

/** Runs this thread's share of the program set in this memory; returns when all its commands are done. */
export function execute(): void {
  const program = programAddress()
  const length = programLength()
  setScratch(load<usize>(program), load<usize>(program, 4))
  let command = program + HEADER
  for (let i = 0; i < length; i++) {
    switch (load<i32>(command)) {
      case 0:
        break
      case 1:
        linear(changetype<LinearCommand>(command))
        break
      case 2:
        embed(changetype<EmbedCommand>(command))
        break
      case 3:
        normAdd(changetype<NormAddCommand>(command))
        break
      case 4:
        qkvRopeStore(changetype<QkvCommand>(command))
        break
      case 5:
        attention(changetype<AttentionCommand>(command))
        break
      case 6:
        sample(changetype<SampleCommand>(command))
        break
      case 7:
        pack(changetype<PackCommand>(command))
        break
      case 10:
        layerNorm(changetype<LayerNormCommand>(command))
        break
      case 11:
        rmsNorm(changetype<RmsNormCommand>(command))
        break
      case 12:
        pair(changetype<PairCommand>(command))
        break
      case 13:
        sparseGelu(changetype<SparseGeluCommand>(command))
        break
      case 14:
        matchLength(changetype<MatchLengthCommand>(command))
        break
      case 15:
        streams(changetype<StreamsCommand>(command))
        break
      case 16:
        headProducts(changetype<HeadProductsCommand>(command))
        break
      case 9:
        score(changetype<ScoreCommand>(command))
        break
      case 20:
        convolution(changetype<ConvolutionCommand>(command))
        break
      case 21:
        scan(changetype<ScanCommand>(command))
        break
      case 22:
        gateNorm(changetype<GateNormCommand>(command))
        break
      case 23:
        sigmoidGate(changetype<SigmoidGateCommand>(command))
        break
      case 30:
        route(changetype<RouteCommand>(command))
        break
      case 31:
        sortRows(changetype<SortCommand>(command))
        break
      case 32:
        combine(changetype<CombineCommand>(command))
        break
      case 40:
        lowRankDown(changetype<LowRankCommand>(command))
        break
      case 41:
        lowRankUp(changetype<LowRankCommand>(command))
        break
      case 42:
        activate(changetype<ActivateCommand>(command))
        break
      default:
        unreachable()
    }
    barrier()
    command += COMMAND
  }
}
