/** Renders Jinja templates of models in bounded time and memory, because a model's file may be broken or hostile. */
import { TemplateFault, TemplateRefusal } from './jinja/errors.ts'
import { renderTemplate } from './jinja/interpreter.ts'
import type { Body } from './jinja/nodes.ts'
import { parseTemplate } from './jinja/parser.ts'
import { toValue } from './jinja/values.ts'

/** A parsed template. Rendering is limited in steps, characters and nesting. */
export class BoundedTemplate {
  readonly #body: Body

  /** @throws TemplateFault for a template that cannot be parsed or uses unsupported features */
  constructor(source: string) {
    this.#body = asFault(() => parseTemplate(source))
  }

  /** @throws TemplateRefusal, and TemplateFault for everything else that goes wrong */
  render(values: Readonly<Record<string, unknown>>): string {
    return asFault(() => {
      const variables = Object.entries(values).map(([name, value]) => [name, toValue(value)] as const)
      return renderTemplate(this.#body, new Map(variables))
    })
  }
}

function asFault<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof TemplateRefusal || error instanceof TemplateFault) throw error
    // Mostly stack overflows of deeply nested templates.
    throw new TemplateFault(error instanceof Error ? error.message : String(error), { cause: error })
  }
}
