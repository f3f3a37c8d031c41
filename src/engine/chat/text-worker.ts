/** The entry of the thread for long texts: templates and a tokenizer of its own. */
import { parentPort, workerData } from 'node:worker_threads'
import { templateOf } from './chat-template.ts'
import { PromptEncoder } from './prompt-encoder.ts'
import type { TextAnswer, TextCall, TextRefusal, TextThreadData } from './text-protocol.ts'
import { EngineError } from '../request.ts'
import type { ThreadAnswer } from '../threads/killable-thread.ts'
import { answerCalls } from '../threads/killable-thread.ts'
import { loadTokenizer } from '../tokenizer/tokenizer.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

interface Loaded {
  readonly tokenizer: Tokenizer
  readonly encoder: PromptEncoder
}

async function load({ path, template, maxModelLen }: TextThreadData): Promise<Loaded> {
  const tokenizer = await loadTokenizer(path)
  const chatTemplate = template === null ? null : templateOf(template, tokenizer)
  return { tokenizer, encoder: new PromptEncoder(tokenizer, chatTemplate, maxModelLen) }
}

function answer({ tokenizer, encoder }: Loaded, call: TextCall): ThreadAnswer<TextAnswer> {
  switch (call.kind) {
    case 'load':
      return { answer: { kind: 'load' } }
    case 'encode': {
      const { addSpecialTokens } = call
      const ids = call.prompts.map((prompt) => Uint32Array.from(encoder.encode(prompt, { addSpecialTokens })))
      return { answer: { kind: 'encode', ids }, transfer: ids.map(({ buffer }) => buffer) }
    }
    case 'decode': {
      const text = tokenizer.decode(call.ids, { skipSpecialTokens: call.skipSpecialTokens })
      return { answer: { kind: 'decode', text } }
    }
  }
}

function refusalOf(error: unknown): TextRefusal | undefined {
  if (!(error instanceof EngineError)) return undefined
  const { code, message, param } = error
  return { code, message, param }
}

if (parentPort !== null) {
  const loading = load(workerData as TextThreadData)
  answerCalls(parentPort, async (call: TextCall) => answer(await loading, call), refusalOf)
}
