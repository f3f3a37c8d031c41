/** Messages to a prompt, through the model's own template. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { EngineError } from './request.ts'
import type { ChatMessage } from './request.ts'
import { ModelError } from './runner/runner.ts'
import type { Tokenizer } from './tokenizer.ts'
import { readTokenizerFiles } from './tokenizer.ts'

export interface ChatTemplate {
  /**
   * The prompt of a conversation. With `continueFinalMessage` it ends inside the last message, which the model goes on with; else it
   * ends where the assistant's turn begins. Throws EngineError invalid_request for what the template refuses.
   */
  render(messages: readonly ChatMessage[], options?: { readonly continueFinalMessage?: boolean }): string
}

/** The template of a folder (chat_template.jinja, else tokenizer_config.json) or a .gguf file; null when the model has none. */
export async function loadChatTemplate(path: string, tokenizer: Tokenizer): Promise<ChatTemplate | null> {
  const own = path.endsWith('.gguf') ? null : await readIfPresent(join(path, 'chat_template.jinja'))
  const source = own ?? templateOf(await readTokenizerFiles(path))
  return source === null ? null : createChatTemplate(source, tokenizer)
}

/** tokenizer_config.json holds one template, or a list of named ones of which `default` is meant. */
function templateOf(files: { readonly config: Record<string, unknown> }): string | null {
  const value = files.config.chat_template
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) return null
  const entries: unknown[] = value
  for (const entry of entries) {
    if (typeof entry !== 'object' || entry === null || !('name' in entry) || !('template' in entry)) continue
    if (entry.name === 'default' && typeof entry.template === 'string') return entry.template
  }
  return null
}

/** Not part of any conversation: a private-use character around a word, looked for in the rendered prompt. */
const END_MARK = '\u{F8FF}end-of-final-message\u{F8FF}'

/** Compiles a Jinja template. Throws ModelError when it cannot be parsed. */
export function createChatTemplate(source: string, tokenizer: Pick<Tokenizer, 'bosToken' | 'eosToken'>): ChatTemplate {
  let template: Template
  try {
    template = new Template(source)
  } catch (error) {
    throw new ModelError(`chat template: cannot be parsed (${messageOf(error)})`, { cause: error })
  }
  return {
    render(messages, options = {}) {
      const continues = options.continueFinalMessage === true
      const last = messages.at(-1)
      if (last === undefined) throw refused('expected at least one message, found none')
      const rendered = renderTemplate(template, {
        messages: continues ? [...messages.slice(0, -1), { ...last, content: last.content + END_MARK }] : messages,
        add_generation_prompt: !continues,
        bos_token: tokenizer.bosToken ?? '',
        eos_token: tokenizer.eosToken ?? '',
      })
      if (!continues) return rendered
      const end = rendered.lastIndexOf(END_MARK)
      if (end < 0) throw refused('the model’s chat template does not show the final message, so it cannot be continued')
      return rendered.slice(0, end)
    },
  }
}

function renderTemplate(template: Template, context: Record<string, unknown>): string {
  try {
    return template.render(context)
  } catch (error) {
    throw refused(`the model's chat template refuses them (${messageOf(error)})`, error)
  }
}

function refused(message: string, cause?: unknown): EngineError {
  return new EngineError('invalid_request', `messages: ${message}`, 'messages', { cause })
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

async function readIfPresent(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return null
    throw new ModelError(`${path}: cannot be read`, { cause: error })
  }
}
