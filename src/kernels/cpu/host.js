// See host.d.ts.
import { setFlagsFromString } from 'node:v8'

// (func (param v128 v128 v128) (result v128) local.get 0, 1, 2; f32x4.relaxed_madd)
const RELAXED_MADD = Uint8Array.of(
  0,
  0x61,
  0x73,
  0x6d,
  1,
  0,
  0,
  0, // magic, version 1
  1,
  8,
  1,
  0x60,
  3,
  0x7b,
  0x7b,
  0x7b,
  1,
  0x7b, // one type
  3,
  2,
  1,
  0, // one function of it
  10,
  13,
  1,
  11,
  0,
  0x20,
  0,
  0x20,
  1,
  0x20,
  2,
  0xfd,
  0x85,
  2,
  0x0b,
)

export function hasRelaxedSimd() {
  if (WebAssembly.validate(RELAXED_MADD)) return true
  // Node 20 has relaxed SIMD behind this flag, which V8 reads at every compilation. Runtimes that do not know the flag ignore it.
  setFlagsFromString('--experimental-wasm-relaxed-simd')
  return WebAssembly.validate(RELAXED_MADD)
}

export function createMemory(pages) {
  return new WebAssembly.Memory({ initial: pages, maximum: 65536, shared: true })
}

// With the optimising compiler at once: by default V8 compiles a function when it is first called, with its baseline compiler, whose code is ten times
// slower, and replaces it while the first requests run; on a busy machine that takes seconds. The flags are read when a module compiles.
function setEagerCompilation(isEager) {
  setFlagsFromString(isEager ? '--no-liftoff' : '--liftoff')
  setFlagsFromString(isEager ? '--no-wasm-lazy-compilation' : '--wasm-lazy-compilation')
}

export async function compile(bytes) {
  setEagerCompilation(true)
  // Node 24 does not count a compilation as something to wait for: a process with nothing else to do would end.
  const handle = setInterval(() => {}, 1000)
  try {
    return await WebAssembly.compile(bytes)
  } finally {
    clearInterval(handle)
    setEagerCompilation(false)
  }
}

export function openProbe(bytes) {
  setEagerCompilation(true)
  try {
    return new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports
  } finally {
    setEagerCompilation(false)
  }
}

export function instantiate(module, memory, executeIn) {
  return new WebAssembly.Instance(module, { env: { memory, executeIn } }).exports
}
