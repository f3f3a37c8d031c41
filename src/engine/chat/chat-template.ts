/** Renders messages as a prompt with the model's chat template. */
import { createHash, randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { foundInstead, isMissing, readText } from '../../regular-file.ts'
import { BoundedTemplate } from './bounded-template.ts'
import { TemplateRefusal } from './jinja/errors.ts'
import { templateArguments } from './tool-arguments.ts'
import { withDeadline } from '../threads/deadline.ts'
import { EngineError, invalidField } from '../request.ts'
import type { ChatMessage, ToolDefinition } from '../request.ts'
import { ModelError } from '../runner/runner.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { readTokenizerConfig } from '../tokenizer/tokenizer.ts'
import { isJsonObject } from '../weights/json-file.ts'
import { isFolder } from '../weights/model-path.ts'

interface RenderOptions {
  readonly tools?: readonly ToolDefinition[]
  /** The prompt ends inside the last message, which the model continues, instead of at the beginning of the assistant's turn. */
  readonly continueFinalMessage?: boolean
  /** Default: true, unless the final message is continued. */
  readonly addGenerationPrompt?: boolean
  /** Further variables for the template. */
  readonly templateArguments?: Readonly<Record<string, unknown>>
}

/** The part of a tokenizer that templates use. */
type TurnTokens = Pick<Tokenizer, 'bosToken' | 'eosToken'>

/** The Jinja sources of a template. */
export interface TemplateSources {
  readonly plain: string
  /** The template for requests with tools; null: there is no separate one. */
  readonly withTools: string | null
}

export interface ChatTemplate {
  /** Its Jinja source. If there are two, the one for tools, which shows the format of function calls. */
  readonly source: string
  readonly sources: TemplateSources
  /**
   * The prompt of a conversation.
   * @throws EngineError invalid_request if the template refuses it, or would silently omit a part of it, such as a message with an unknown role, or
   * tools
   */
  render(messages: readonly ChatMessage[], options?: RenderOptions): string
}

/** Used for models without a template: ChatML, the most common format of conversations in training. */
const CHATML = `{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}`

/**
 * Loads the template from `file`, else from the model: a folder (chat_template.jinja, else tokenizer_config.json) or a .gguf file. A model without a
 * template gets ChatML if its vocabulary has ChatML's markers, else null.
 * @throws ModelError
 */
export async function loadChatTemplate(
  path: string,
  tokenizer: Tokenizer,
  file: string | null = null,
): Promise<ChatTemplate | null> {
  if (file !== null) {
    return fileTemplate(file, tokenizer)
  }
  const own = await loadOwnTemplate(path, tokenizer)
  if (own !== null || tokenizer.tokenId('<|im_start|>') === null || tokenizer.tokenId('<|im_end|>') === null) return own
  return createChatTemplate(CHATML, tokenizer)
}

/** @throws ModelError naming the flag */
async function fileTemplate(file: string, tokenizer: Tokenizer): Promise<ChatTemplate> {
  try {
    const source = await readText(file)
    if (source.trim() === '') throw new ModelError('expected a Jinja template, found an empty file')
    return createChatTemplate(source, tokenizer)
  } catch (error) {
    const why = error instanceof ModelError ? error.message : `expected a Jinja template, found ${foundInstead(error)}`
    throw new ModelError(`--chat-template ${file}: ${why}`, { cause: error })
  }
}

async function loadOwnTemplate(path: string, tokenizer: Tokenizer): Promise<ChatTemplate | null> {
  const isInFolder = await isFolder(path)
  const own = isInFolder ? join(path, 'chat_template.jinja') : null
  const source = own === null ? null : await readIfPresent(own)
  if (own !== null && source !== null) return namingFile(own, () => createChatTemplate(source, tokenizer))
  const file = isInFolder ? join(path, 'tokenizer_config.json') : path
  const config = await readTokenizerConfig(path)
  return namingFile(file, () => {
    checkSources(config.chat_template)
    const plain = namedSource(config, 'default')
    return plain === null ? null : templateOf({ plain, withTools: namedSource(config, 'tool_use') }, tokenizer)
  })
}

function namingFile<T>(file: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw error instanceof ModelError ? new ModelError(`${file}: ${error.message}`, { cause: error }) : error
  }
}

/** @throws ModelError when a source cannot be parsed */
export function templateOf({ plain, withTools }: TemplateSources, tokenizer: TurnTokens): ChatTemplate {
  const template = createChatTemplate(plain, tokenizer)
  return withTools === null ? template : new ChatTemplatePair(template, createChatTemplate(withTools, tokenizer))
}

/** @throws ModelError for what is neither a template nor a list of named ones */
function checkSources(value: unknown): void {
  if (value === undefined || value === null || typeof value === 'string') return
  const isNamed = (entry: unknown): boolean =>
    isJsonObject(entry) && typeof entry.name === 'string' && typeof entry.template === 'string'
  if (Array.isArray(value) && value.every(isNamed)) return
  const found = Array.isArray(value)
    ? 'a list of something else'
    : isJsonObject(value)
      ? 'an object'
      : `a ${typeof value}`
  throw new ModelError(`chat_template: expected a template or a list of {name, template}, found ${found}`)
}

/** tokenizer_config.json holds one template, `default`, or a list of named ones. */
function namedSource({ chat_template: value }: Record<string, unknown>, name: 'default' | 'tool_use'): string | null {
  // Like no template, as in transformers.
  if (value === '') return null
  if (typeof value === 'string') return name === 'default' ? value : null
  if (!Array.isArray(value)) return null
  const entries: unknown[] = value
  for (const entry of entries) {
    if (typeof entry !== 'object' || entry === null || !('name' in entry) || !('template' in entry)) continue
    if (entry.name === name && typeof entry.template === 'string') return entry.template
  }
  return null
}

/** A model's plain template, and the one for requests that bring tools. */
class ChatTemplatePair implements ChatTemplate {
  readonly source: string
  readonly sources: TemplateSources
  readonly #plain: ChatTemplate
  readonly #withTools: ChatTemplate

  constructor(plain: ChatTemplate, withTools: ChatTemplate) {
    this.source = withTools.source
    this.sources = { plain: plain.source, withTools: withTools.source }
    this.#plain = plain
    this.#withTools = withTools
  }

  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const hasTools = options.tools !== undefined && options.tools.length > 0
    return (hasTools ? this.#withTools : this.#plain).render(messages, options)
  }
}

/** Inserted to find out what a template shows. Plain letters and digits, which no filter changes, and random, so that no conversation has them. */
const MARK = randomBytes(8).toString('hex')
const mark = (name: string | number): string => `${MARK}x${name}x`
const END_MARK = mark('end')

/** Time limit of a template. Known templates take milliseconds for long conversations. */
const RENDER_MS = 2_000

/** Limit on remembered shapes of conversations that a template shows completely. */
const MAX_KNOWN_SHAPES = 256

/** Compiles a Jinja template. @throws ModelError when it cannot be parsed */
export function createChatTemplate(source: string, tokenizer: TurnTokens): ChatTemplate {
  let template: BoundedTemplate
  try {
    template = new BoundedTemplate(source)
  } catch (error) {
    throw new ModelError(`chat template: cannot be parsed (${messageOf(error)})`, { cause: error })
  }
  return new JinjaChatTemplate(source, template, tokenizer)
}

/** A conversation as templates expect it: OpenAI's, with the arguments of calls as objects. */
type TemplateMessage = Readonly<Record<string, unknown>> & { readonly role: string; readonly content: string }

class JinjaChatTemplate implements ChatTemplate {
  readonly source: string
  readonly sources: TemplateSources
  readonly #template: BoundedTemplate
  readonly #tokens: TurnTokens
  /** Digest of a conversation's shape -> how the template shows all of it. Least recently used first. */
  readonly #knownShapes = new Map<string, Adaptation>()

  constructor(source: string, template: BoundedTemplate, tokens: TurnTokens) {
    this.source = source
    this.sources = { plain: source, withTools: null }
    this.#template = template
    this.#tokens = tokens
  }

  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const continues = options.continueFinalMessage === true
    const tools = options.tools ?? []
    const adaptation = this.#adaptation(messages, tools)
    const shown = messages.map((message) => toTemplateMessage(message, adaptation, templateArguments))
    const last = shown.at(-1)
    if (last === undefined) throw refused('expected at least one message, found none')
    const more = options.templateArguments ?? {}
    if (!continues) return this.#render(shown, tools, options.addGenerationPrompt ?? true, more)
    const rendered = this.#render(
      [...shown.slice(0, -1), { ...last, content: last.content + END_MARK }],
      tools,
      false,
      more,
    )
    const end = rendered.lastIndexOf(END_MARK)
    if (end < 0) throw refused('the model’s chat template does not show the final message, so it cannot be continued')
    return rendered.slice(0, end)
  }

  #render(
    messages: readonly TemplateMessage[],
    tools: readonly unknown[],
    addGenerationPrompt: boolean,
    more: Readonly<Record<string, unknown>> = {},
  ): string {
    try {
      const variables = {
        ...more,
        messages,
        ...(tools.length === 0 ? {} : { tools }),
        add_generation_prompt: addGenerationPrompt,
        bos_token: this.#tokens.bosToken ?? '',
        eos_token: this.#tokens.eosToken ?? '',
      }
      return withDeadline(RENDER_MS, () => this.#template.render(variables))
    } catch (error) {
      if (error instanceof TemplateRefusal)
        throw refused(`the model's chat template refuses them (${messageOf(error)})`, error)
      // The fault is the model's. No other conversation would help.
      const message = `the model's chat template cannot be rendered (${messageOf(error)}); --chat-template takes another`
      throw new EngineError('engine_error', message, null, { cause: error })
    }
  }

  /**
   * Templates silently omit what they do not know, so each shape of a conversation is rendered once with marks in it. The role developer is
   * OpenAI's newer name for system, which few templates know. Most templates take the arguments of calls as objects, some as text.
   */
  #adaptation(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): Adaptation {
    const shape = digestOf(`${tools.length > 0 ? 'tools' : ''} ${messages.map(shapeOf).join(' ')}`)
    const found = this.#knownShapes.get(shape) ?? this.#findAdaptation(messages, tools)
    this.#knownShapes.delete(shape)
    this.#knownShapes.set(shape, found)
    const [oldest] = this.#knownShapes.keys()
    if (this.#knownShapes.size > MAX_KNOWN_SHAPES && oldest !== undefined) this.#knownShapes.delete(oldest)
    return found
  }

  /** @throws EngineError if no adaptation makes the template show the whole conversation */
  #findAdaptation(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): Adaptation {
    const hasDeveloper = messages.some(({ role }) => role === 'developer')
    const hasCalls = messages.some(({ toolCalls = [] }) => toolCalls.length > 0)
    let [problem, fallback]: [unknown, Adaptation | null] = [null, null]
    const hasReasoning = messages.some(({ reasoning }) => reasoning !== undefined)
    const reasoningKeys = REASONING_KEYS.filter((key) => new RegExp(`\\b${key}\\b`).test(this.source))
    for (const hasTextArguments of hasCalls ? [false, true] : [false]) {
      for (const isDeveloperSystem of hasDeveloper ? [false, true] : [false]) {
        // gpt-oss accepts no reasoning beside a text and a call.
        for (const keys of hasReasoning ? [reasoningKeys, []] : [[]]) {
          const adaptation = { hasTextArguments, isDeveloperSystem, reasoningKeys: keys }
          try {
            const showsArguments = this.#requireShown(messages, tools, adaptation)
            if (showsArguments || !hasCalls) return adaptation
            fallback ??= adaptation
          } catch (error) {
            if (!hasTextArguments) problem = error
          }
        }
      }
    }
    if (fallback === null) throw problem
    return fallback
  }

  /**
   * Whether the prompt shows the arguments of all calls.
   * @throws EngineError for the first message, or the tools, of which it shows nothing
   */
  #requireShown(messages: readonly ChatMessage[], tools: readonly ToolDefinition[], adaptation: Adaptation): boolean {
    const render = (markCall: (call: unknown, name: string) => unknown) => {
      const marked = messages.map((message, i) => {
        const argumentsOf = () => (adaptation.hasTextArguments ? JSON.stringify({ a: mark(`arguments${i}`) }) : { a: mark(`arguments${i}`) }) // prettier-ignore
        const { tool_calls: calls, ...shown } = toTemplateMessage(message, adaptation, argumentsOf, true)
        return {
          ...shown,
          content: shown.content === '' ? '' : shown.content + mark(i),
          ...(Array.isArray(calls) ? { tool_calls: calls.map((call) => markCall(call, `call${i}`)) } : {}),
        }
      })
      const markedTools = tools.map((tool) => markFunction(tool, 'tools'))
      return this.#render(marked, markedTools, true)
    }
    const rendered = render(markFunction)
    if (tools.length > 0 && !rendered.includes(mark('tools'))) {
      throw invalidField('tools', "the model's chat template does not support tools")
    }
    // Where a call's id says which function it is of, its name may be left out.
    const isCallShown = (text: string) => messages.every(({ toolCalls = [] }, i) => toolCalls.length === 0 || text.includes(mark(`call${i}`))) // prettier-ignore
    const withIds = isCallShown(rendered) ? rendered : render(markId)
    for (const [i, { role, content, toolCalls = [] }] of messages.entries()) {
      if (content !== '' && !rendered.includes(mark(i)))
        throw refused(`the model's chat template does not support message ${i} of role ${role}`)
      if (toolCalls.length > 0 && !withIds.includes(mark(`call${i}`)))
        throw refused(`the model's chat template does not support the tool calls of message ${i}`)
    }
    return messages.every(({ toolCalls = [] }, i) => toolCalls.length === 0 || rendered.includes(mark(`arguments${i}`)))
  }
}

/** How a conversation must be presented so that the template shows all of it. */
interface Adaptation {
  readonly isDeveloperSystem: boolean
  readonly hasTextArguments: boolean
  /** The template's names for the reasoning of earlier turns. */
  readonly reasoningKeys: readonly string[]
}

const REASONING_KEYS = ['reasoning_content', 'reasoning', 'thinking'] as const

/** The features of a message that decide whether a template shows it. */
function shapeOf({ role, content, reasoning, toolCalls = [] }: ChatMessage): string {
  return `${role}${reasoning === undefined ? '' : '?'}${content === '' ? '' : '+'}${toolCalls.length === 0 ? '' : '()'}`
}

/** Shapes of long conversations are long themselves. */
const digestOf = (text: string): string => createHash('sha256').update(text).digest('base64')

/** `argumentsOf`: a call's arguments as a value; where the template takes text they are given as they are, unless they are `marked`. */
function toTemplateMessage(
  { role, content, reasoning, name, toolCalls, toolCallId }: ChatMessage,
  { isDeveloperSystem, hasTextArguments, reasoningKeys }: Adaptation,
  argumentsOf: (json: string) => unknown,
  areMarked = false,
): TemplateMessage {
  const written = (json: string) => (hasTextArguments && !areMarked ? (json.trim() === '' ? '{}' : json) : argumentsOf(json)) // prettier-ignore
  return {
    role: isDeveloperSystem && role === 'developer' ? 'system' : role,
    content,
    ...(reasoning === undefined ? {} : Object.fromEntries(reasoningKeys.map((key) => [key, reasoning]))),
    ...(name === undefined ? {} : { name }),
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(toolCalls === undefined || toolCalls.length === 0
      ? {}
      : {
          tool_calls: toolCalls.map((call) => ({
            id: call.id,
            type: 'function',
            function: { name: call.name, arguments: written(call.arguments) },
          })),
        }),
  }
}

function markId(call: unknown, markName: string): unknown {
  return isRecord(call) ? { ...call, id: `${String(call.id)}${mark(markName)}` } : call
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

/** A tool or a call of one with a mark in the function's name, which no template but those that show ids leaves out. */
function markFunction(tool: unknown, markName: string): unknown {
  if (!isRecord(tool)) return tool
  const inner = isRecord(tool.function) ? tool.function : {}
  return { ...tool, function: { ...inner, name: `${String(inner.name ?? '')}${mark(markName)}` } }
}

const refused = (problem: string, cause?: unknown): EngineError => invalidField('messages', problem, cause)

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

async function readIfPresent(path: string): Promise<string | null> {
  try {
    return await readText(path)
  } catch (error) {
    if (isMissing(error)) return null
    throw new ModelError(`${path}: expected a file, found ${foundInstead(error)}`, { cause: error })
  }
}
