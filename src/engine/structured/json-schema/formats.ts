/** The formats of JSON Schema that are enforced, as patterns of the whole string that match valid values only, if not every one of them. */

const DATE =
  '\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))'
const TIME = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)'
const OCTET = '(?:25[0-5]|2[0-4]\\d|1\\d{2}|[1-9]?\\d)'
const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?'
const HOST = `(?:${LABEL}\\.){1,4}[A-Za-z]{2,12}`
const PARTS = (units: string) => units.split('').map((unit) => `(?:\\d{1,4}${unit})?`).join('') // prettier-ignore

const SEGMENT = '[A-Za-z0-9._~-]{1,64}'
const URI = `https?://${HOST}(?::[1-9]\\d{0,3})?(?:/${SEGMENT}){0,8}/?`
const POINTER = '(?:/(?:[A-Za-z0-9_-]|~[01]){0,64}){0,8}'

/** Any other format is an annotation, as the standard has it. */
export const STRING_FORMATS: ReadonlyMap<unknown, string> = new Map([
  ['date', DATE],
  ['time', TIME],
  ['date-time', `${DATE}T${TIME}`],
  ['duration', `P(?:\\d{1,4}W|(?=[\\dT])(?!.*T$)${PARTS('YMD')}(?:T(?=\\d)${PARTS('HMS')})?)`],
  ['uuid', '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}'],
  ['ipv4', `${OCTET}\\.${OCTET}\\.${OCTET}\\.${OCTET}`],
  ['ipv6', '(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}'],
  ['hostname', HOST],
  ['email', `[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,32}){0,3}@${HOST}`],
  ['uri', URI],
  ['url', URI],
  ['iri', URI],
  ['uri-reference', `(?:${URI}|(?:/${SEGMENT}){1,8}/?)`],
  ['iri-reference', `(?:${URI}|(?:/${SEGMENT}){1,8}/?)`],
  ['uri-template', `(?:/(?:${SEGMENT}|\\{[A-Za-z_]\\w{0,31}\\})){1,8}`],
  ['json-pointer', POINTER],
  ['relative-json-pointer', `(?:0|[1-9]\\d{0,2})(?:#|${POINTER})`],
  ['idn-email', `[A-Za-z0-9_+-]{1,32}@${HOST}`],
  ['idn-hostname', HOST],
  ['iso-time', TIME],
  ['iso-date-time', `${DATE}T${TIME}`],
  ['byte', '(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?'],
])

const COUNTED_HOST = '(?:[A-Za-z0-9]+\\.)+[A-Za-z]{2,12}'
const COUNTED_PATH = '(?:/[A-Za-z0-9._~-]+)'
const COUNTED_URI = `https?://${COUNTED_HOST}${COUNTED_PATH}*/?`
const COUNTED_EMAIL = `[A-Za-z0-9_+-]+@${COUNTED_HOST}`

/** Limit on the characters of a text of one of the formats below: it takes the place of their own limits. */
export const MAX_COUNTED_FORMAT = 60

/** Formats that take too many states beside a length or a pattern, without limits of their own. They also match valid values only. */
export const COUNTED_FORMATS: ReadonlyMap<unknown, string> = new Map([
  ['hostname', COUNTED_HOST],
  ['idn-hostname', COUNTED_HOST],
  ['email', COUNTED_EMAIL],
  ['idn-email', COUNTED_EMAIL],
  ['uri', COUNTED_URI],
  ['url', COUNTED_URI],
  ['iri', COUNTED_URI],
  ['uri-reference', `${COUNTED_PATH}+`],
  ['iri-reference', `${COUNTED_PATH}+`],
  ['uri-template', `${COUNTED_PATH}+`],
  ['json-pointer', '(?:/[A-Za-z0-9_-]*)*'],
  ['relative-json-pointer', '(?:0|[1-9]\\d{0,2})(?:#|(?:/[A-Za-z0-9_-]*)*)'],
])
