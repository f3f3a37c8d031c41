/** Ranking with a decoder: the prompt that it was trained on, and the relevance that its last hidden state gives. */
import { dequantize, sliceRows } from '../../../kernels/dequantize.ts'
import type { PairTokenizer } from '../../tokenizer/tokenizer.ts'
import { readMatrix, type WeightSource } from '../../weights/source.ts'
import { ModelError } from '../runner.ts'
import type { DecoderCheckpoint } from './checkpoint.ts'
import type { TokenRow } from './special-tokens.ts'
import { MAX_CHARS_PER_TOKEN, type TextReader } from './text-reader.ts'

/** How a ranker's input is made and its output is read. */
export interface Ranking {
  row(reader: TextReader, query: string, document: string): TokenRow
  score(pooled: Float32Array): number
}

/** Makes the ranking once tokenizer and pass are loaded. */
export type MakeRanking = (reader: TextReader) => Ranking

const RANK_BEFORE =
  '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. ' +
  'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
const RANK_AFTER = '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n'
const RANK_TASK = 'Given a web search query, retrieve relevant passages that answer the query'

/**
 * The ranking of a decoder that was trained to answer yes or no (Qwen3-Reranker). After the prompt of its model card, the relevance is the probability of
 * yes among the two answers. Variants with a classifier use its rows instead of those of yes and no.
 */
export async function decoderRanking(
  { source, spec }: DecoderCheckpoint,
  tokenizer: PairTokenizer,
): Promise<MakeRanking> {
  const direction = await relevanceRow(source, spec.hiddenSize, tokenizer)
  return (reader) => {
    const before = reader.body(RANK_BEFORE)
    const after = reader.body(RANK_AFTER)
    return {
      row(_, query, document) {
        const room = Math.max(0, reader.pass.maxTokens - before.length - after.length)
        const asked = `<Instruct>: ${RANK_TASK}\n<Query>: ${query.slice(0, room * MAX_CHARS_PER_TOKEN)}\n<Document>: `
        const body = reader.body(asked + document.slice(0, room * MAX_CHARS_PER_TOKEN)).slice(0, room)
        const ids = [...before, ...body, ...after]
        return { ids, segments: ids.map(() => 0) }
      },
      score: (pooled) => 1 / (1 + Math.exp(-pooled.reduce((sum, value, i) => sum + value * direction[i]!, 0))),
    }
  }
}

/** The vector [hidden] that gives the logit of "relevant" by its product with the last hidden state. */
async function relevanceRow(source: WeightSource, hiddenSize: number, tokenizer: PairTokenizer): Promise<Float32Array> {
  const head = ['score', 'cls.output'].find((name) => source.tensors.has(`${name}.weight`))
  if (head !== undefined) {
    const rows = source.tensors.get(`${head}.weight`)?.shape[0] ?? 1
    if (rows > 2) throw new ModelError(`${source.path}: ${head}.weight: expected 1 or 2 rows, found ${rows}`)
    const values = dequantize(await readMatrix(source, `${head}.weight`, rows, hiddenSize))
    if (rows === 1) return values
    // The labels are [yes, no] in llama.cpp's files, and [no, yes] in classifiers.
    const sign = head === 'score' ? -1 : 1
    return values.slice(0, hiddenSize).map((value, i) => sign * (value - values[hiddenSize + i]!))
  }
  const [yes, no] = [tokenizer.tokenId('yes'), tokenizer.tokenId('no')]
  if (yes === null || no === null)
    throw new ModelError(`${source.path}: expected a vocabulary with the tokens yes and no for ranking, found none`)
  const name = ['lm_head', 'model.embed_tokens', 'embed_tokens'].find((candidate) =>
    source.tensors.has(`${candidate}.weight`),
  )
  const info = source.tensors.get(`${name ?? 'lm_head'}.weight`)
  if (name === undefined || info === undefined)
    throw new ModelError(`${source.path}: expected lm_head.weight, found none`)
  const [rows = 0] = info.shape
  const table = await source.read(`${name}.weight`)
  const rowOf = (row: number): Float32Array => dequantize(sliceRows(table, rows, row, 1))
  const [ofYes, ofNo] = [rowOf(yes), rowOf(no)]
  return ofYes.map((value, i) => value - ofNo[i]!)
}
