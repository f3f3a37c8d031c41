/** The adapters that a model is served with, and the rows and matrices that each of them updates. */
import type { LowRankPart } from '../../kernels/ops.ts'
import { type LoraFile, type LoraModule, moduleKey, openLora } from '../weights/lora.ts'
import type { Part, Updates } from './parameters.ts'
import { type AdapterInfo, type AdapterRequest, ModelError } from './runner.ts'
import type { DecoderSpec } from './decoder-spec.ts'

interface Opened {
  readonly name: string
  readonly file: LoraFile
  readonly used: Set<string>
}

/** The opened adapters of one model. */
export class Adapters implements Updates {
  readonly #opened: readonly Opened[]
  readonly #spec: DecoderSpec

  private constructor(opened: readonly Opened[], spec: DecoderSpec) {
    this.#opened = opened
    this.#spec = spec
  }

  /** Opens the adapters; null: none is requested. @throws ModelError for an adapter that cannot be served */
  static async open(requests: readonly AdapterRequest[], spec: DecoderSpec): Promise<Adapters | null> {
    if (requests.length === 0) return null
    const opened: Opened[] = []
    try {
      for (const { name, path } of requests) opened.push({ name, file: await openLora(path, spec), used: new Set() })
      return new Adapters(opened, spec)
    } catch (error) {
      await Promise.all(opened.map(({ file }) => file.close()))
      throw error
    }
  }

  get infos(): readonly AdapterInfo[] {
    return this.#opened.map(({ name, file }) => ({
      name,
      digest: file.digest,
      rank: Math.max(...[...file.modules.values()].map(({ down }) => down.shape[0] ?? 0)),
    }))
  }

  /** Each adapter's update of the matrix made of `parts`; null: no adapter changes it. @throws ModelError for shapes that do not fit */
  async updateOf(parts: readonly Part[], cols: number): Promise<readonly (readonly LowRankPart[])[] | null> {
    const updates: LowRankPart[][] = []
    for (const { name, file, used } of this.#opened) {
      const own: LowRankPart[] = []
      let firstRow = 0
      for (const part of parts) {
        const [tensor, rows] = part
        const module = file.modules.get(moduleKey(tensor))
        if (module !== undefined) {
          used.add(module.key)
          own.push(await this.#read(name, file, module, part, firstRow, cols))
        }
        firstRow += rows
      }
      updates.push(own)
    }
    return updates.some((own) => own.length > 0) ? updates : null
  }

  /** To be called after the model's matrices are loaded. @throws ModelError that names an update of a layer which the model does not have */
  requireAllUsed(): void {
    for (const { name, file, used } of this.#opened) {
      const left = [...file.modules.keys()].find((key) => !used.has(key))
      if (left === undefined) continue
      const why = /\.experts\b/.test(left)
        ? 'updates of experts are not served; updates of attention and of dense MLPs are'
        : `${this.#spec.architecture} has no linear layer of this name; is the adapter for another model?`
      throw new ModelError(`--lora ${name}: ${file.path}: ${left}: ${why}`)
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#opened.map(({ file }) => file.close()))
  }

  async #read(
    adapter: string,
    file: LoraFile,
    { key, down, up, scale }: LoraModule,
    [, rows, from, stored = rows]: Part,
    firstRow: number,
    cols: number,
  ): Promise<LowRankPart> {
    const fail = (problem: string): never => {
      throw new ModelError(`--lora ${adapter}: ${file.path}: ${key}: ${problem}`)
    }
    const [rank = 0, inputs] = down.shape
    if (inputs !== cols || up.shape[0] !== stored)
      fail(`an update of [${up.shape[0]}, ${inputs}], expected [${stored}, ${cols}]; is the adapter for another model?`)
    const tiles = this.#spec.layers.some(({ mixer }) => mixer.kind === 'gatedDelta' && mixer.tilesKeyHeads)
    if (key.includes('.linear_attn.') && tiles !== file.tilesKeyHeads)
      fail('its value heads are in the order of the other file format; take both adapter and model as GGUF, or neither')
    const values = await file.read(up)
    const factors = new Float32Array(rows * rank)
    for (let row = 0; row < rows; row++) {
      const at = (from?.(row) ?? row) * rank
      for (let k = 0; k < rank; k++) factors[row * rank + k] = values[at + k]! * scale
    }
    return { firstRow, rows, rank, down: await file.read(down), up: factors }
  }
}
