// Reads memory and does nothing with it but what keeps the loads: the bandwidth probe of the benchmarks.
import { takeUnits } from './pool'

const UNIT: usize = 1 << 20

@unmanaged
export class ReadCommand {
  opcode: i32
  address: usize
  bytes: usize // whole MiB
  counter: i32
  sink: i32
}

export function read(c: ReadCommand): void {
  const units = <i32>(c.bytes / UNIT)
  let a = i32x4.splat(0)
  let b = a
  let d = a
  let e = a
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<ReadCommand>('counter'), 1)
    if (unit >= units) break
    const start = c.address + UNIT * unit
    for (let at = start; at < start + UNIT; at += 64) {
      a = v128.xor(a, v128.load(at))
      b = v128.xor(b, v128.load(at, 16))
      d = v128.xor(d, v128.load(at, 32))
      e = v128.xor(e, v128.load(at, 48))
    }
  }
  c.sink = i32x4.extract_lane(v128.xor(v128.xor(a, b), v128.xor(d, e)), 0)
}
