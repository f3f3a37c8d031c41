/** Passes arguments of earlier calls through a template, which writes them as JSON again, with unchanged digits and order. */
import { parseJson } from './jinja/json.ts'
import { Dict, ValueBox } from './jinja/values.ts'

/** The arguments as a template value. '' and null become an empty object; text that is not JSON stays a string. */
export function templateArguments(json: string): unknown {
  if (json.trim() === '' || json.trim() === 'null') return new ValueBox(new Dict())
  const parsed = parseJson(json)
  return parsed === null ? json : new ValueBox(parsed.value)
}
