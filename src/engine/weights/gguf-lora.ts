/** LoRA adapters in GGUF, as llama.cpp's convert_lora_to_gguf.py writes them: `NAME.weight.lora_a` and `.lora_b` beside `adapter.*` metadata. */
import { ModelError } from '../runner/runner.ts'
import type { DecoderSpec } from '../runner/decoder-spec.ts'
import { familyNaming, requireFamily } from './gguf.ts'
import { type GgufMetadata, type GgufNaming, openGgufFile } from './gguf-file.ts'
import type { WeightSource } from './source.ts'

interface GgufLora {
  /** The factors as `NAME.weight.lora_a` and `NAME.weight.lora_b`, with the layer's Hugging Face name and its order of rows. */
  readonly source: WeightSource
  /** Updates are scaled by alpha / rank; 0: they are not scaled. */
  readonly alpha: number
  /** The converter reordered value heads (gguf-states.ts). */
  readonly tilesKeyHeads: boolean
}

/** Opens an adapter for a model of this spec. Its numbers of heads come from the spec, since the file lacks them. @throws ModelError */
export async function openGgufLora(path: string, spec: DecoderSpec): Promise<GgufLora> {
  let tilesKeyHeads = false
  const naming = (metadata: GgufMetadata): GgufNaming => {
    const kind = metadata.get('adapter.type')
    if (kind !== 'lora')
      throw new ModelError(
        kind === null
          ? `${path}: found a model, expected an adapter (adapter.type "lora")`
          : `${path}: adapter.type: expected "lora", found ${JSON.stringify(kind).slice(0, 40)}`,
      )
    const family = requireFamily(metadata)
    tilesKeyHeads = family.tilesKeyHeads === true
    const attention = spec.layers.find(({ mixer }) => mixer.kind === 'attention')?.mixer
    const k = attention?.kind === 'attention' ? attention.numKvHeads : null
    const nameOf = familyNaming(family, metadata, { q: spec.numHeads, k })
    return (name) => {
      const [, tensor = name, factor] = /^(.+)\.(lora_[ab])$/.exec(name) ?? []
      const named = nameOf(tensor)
      if (factor === undefined) return named
      // Only the second factor has the layer's rows.
      return { name: `${named.name}.${factor}`, permutedHeads: factor === 'lora_b' ? named.permutedHeads : null }
    }
  }
  const { source, metadata } = await openGgufFile(path, naming)
  const alpha = metadata.get('adapter.lora.alpha')
  if (typeof alpha === 'number' && alpha >= 0) return { source, alpha, tilesKeyHeads }
  await source.close()
  throw new ModelError(
    `${path}: adapter.lora.alpha: expected a number of at least 0, found ${JSON.stringify(alpha)?.slice(0, 40)}`,
  )
}
