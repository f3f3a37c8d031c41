/** A list of commands in shared memory, written here and run by all threads (assembly/index.ts). */
import type { Arena } from './arena.ts'

export const OPCODES = {
  linear: 1,
  embed: 2,
  normAdd: 3,
  qkvRopeStore: 4,
  attention: 5,
  argmax: 6,
  pack: 7,
} as const
export type Opcode = keyof typeof OPCODES

const COMMAND_WORDS = 32
const HEADER_WORDS = 16
/** A step of 128 layers of 8 ops, twice over. */
const MAX_COMMANDS = 2048

/** A 32-bit word of a command: integers and addresses as they are, floats marked. */
export type Word = number | { readonly f32: number }

export class Program {
  readonly address: number
  readonly #words: Int32Array
  readonly #floats: Float32Array
  readonly #names: Opcode[] = []

  constructor(arena: Arena) {
    const numWords = HEADER_WORDS + MAX_COMMANDS * COMMAND_WORDS
    this.address = arena.allocate(numWords * 4, 'program')
    this.#words = arena.i32(this.address, numWords)
    this.#floats = arena.f32(this.address, numWords)
  }

  get length(): number {
    return this.#names.length
  }

  /** The commands' kernels, in order. */
  get names(): readonly Opcode[] {
    return this.#names
  }

  /** Appends a command: its fields in the order of the class of the same name in assembly/; counters, which follow them, start at zero. */
  add(opcode: Opcode, fields: readonly Word[]): void {
    if (this.#names.length === MAX_COMMANDS) throw new Error(`a step has more than ${MAX_COMMANDS} ops`)
    let at = HEADER_WORDS + this.#names.length * COMMAND_WORDS
    this.#words.fill(0, at, at + COMMAND_WORDS)
    this.#words[at++] = OPCODES[opcode]
    for (const field of fields) {
      if (typeof field === 'number') this.#words[at++] = field
      else this.#floats[at++] = field.f32
    }
    this.#names.push(opcode)
  }

  /** Moves command `index` to the front, for running it alone. */
  isolate(index: number): void {
    const from = HEADER_WORDS + index * COMMAND_WORDS
    this.#words.copyWithin(HEADER_WORDS, from, from + COMMAND_WORDS)
  }

  setScratch(base: number, bytesPerThread: number): void {
    this.#words[0] = base
    this.#words[1] = bytesPerThread
  }

  clear(): void {
    this.#names.length = 0
  }
}
