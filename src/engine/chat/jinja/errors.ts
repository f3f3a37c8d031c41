/** What can go wrong with a model's template. */

/** The template does what no template for a conversation has to, or what Python's would fail at too: the model's fault, whoever asked. */
export class TemplateFault extends Error {
  override readonly name = 'TemplateFault'
}

/** The template refuses the conversation, in its own words (`raise_exception`). */
export class TemplateRefusal extends Error {
  override readonly name = 'TemplateRefusal'
}
