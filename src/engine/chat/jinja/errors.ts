/** Errors of a model's template. */

/** The template is invalid, uses an unsupported feature, or fails as it would in Python: the model's fault, not the caller's. */
export class TemplateFault extends Error {
  override readonly name = 'TemplateFault'
}

/** The template refuses the conversation, in its own words (`raise_exception`). */
export class TemplateRefusal extends Error {
  override readonly name = 'TemplateRefusal'
}
