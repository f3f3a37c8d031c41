/**
 * The preprocessor of the .wgsl files. Four constructs, one per line:
 *
 *     #include "step.wgsl"         the text of another file, at every place that includes it
 *     #if TM > 1 && !NORM          / #else / #endif; an undefined name is 0
 *     #repeat i R                  / #end: the body R times, with i = 0 .. R - 1
 *     $(i * LANES % 32)            the value of an integer expression, anywhere in a line
 *
 * Why not WGSL's override constants: they specialise only numbers, while these parameters choose types (vec4 or scalar reads), code (the unpacking of
 * a format) and the number of variables. Each accumulator must be a variable: drivers that do not unroll a loop over an array keep the array in
 * memory, and an override can size only workgroup arrays. Overrides would not save time either: for new values, the driver compiles the pipeline
 * again, which takes 0.1 to 3 s on a software adapter, against a millisecond for this preprocessor. The few numbers that could be overrides (threads
 * per workgroup, tokens per block) are defines like the rest, so that there is only one mechanism.
 */

export type Defines = Readonly<Record<string, number>>

type Variables = Map<string, number>

/** Evaluates an integer expression with C's precedence: || && comparisons + - * / % ! ( ). Division truncates towards zero. */
function evaluate(text: string, variables: Variables): number {
  const tokens = text.match(/\d+|[A-Za-z_]\w*|&&|\|\||[<>=!]=|[-+*/%<>!()]|\S/g) ?? []
  let at = 0
  const levels: readonly (readonly string[])[] = [
    ['||'],
    ['&&'],
    ['==', '!=', '<', '>', '<=', '>='],
    ['+', '-'],
    ['*', '/', '%'],
  ]
  const apply = (operator: string, a: number, b: number): number => {
    switch (operator) {
      case '||':
        return a !== 0 || b !== 0 ? 1 : 0
      case '&&':
        return a !== 0 && b !== 0 ? 1 : 0
      case '==':
        return a === b ? 1 : 0
      case '!=':
        return a !== b ? 1 : 0
      case '<':
        return a < b ? 1 : 0
      case '>':
        return a > b ? 1 : 0
      case '<=':
        return a <= b ? 1 : 0
      case '>=':
        return a >= b ? 1 : 0
      case '+':
        return a + b
      case '-':
        return a - b
      case '*':
        return a * b
      case '/':
        return Math.trunc(a / b)
      case '%':
        return a % b
      default:
        throw new Error(`unknown operator ${operator} in "${text}"`)
    }
  }
  const primary = (): number => {
    const token = tokens[at++]
    if (token === undefined) throw new Error(`expression "${text}" ends too early`)
    if (token === '!') return primary() === 0 ? 1 : 0
    if (token === '-') return -primary()
    if (token === '(') {
      const value = binary(0)
      if (tokens[at++] !== ')') throw new Error(`expression "${text}" lacks a )`)
      return value
    }
    if (/^\d/.test(token)) return Number(token)
    if (/^[A-Za-z_]/.test(token)) return variables.get(token) ?? 0
    throw new Error(`unexpected ${token} in expression "${text}"`)
  }
  const binary = (level: number): number => {
    const operators = levels[level]
    if (operators === undefined) return primary()
    let value = binary(level + 1)
    while (tokens[at] !== undefined && operators.includes(tokens[at]!)) {
      const operator = tokens[at++]!
      value = apply(operator, value, binary(level + 1))
    }
    return value
  }
  const value = binary(0)
  if (at !== tokens.length) throw new Error(`unexpected ${tokens[at]} in expression "${text}"`)
  return value
}

/** Replaces each $(expression) of a line by its value. */
function substitute(line: string, variables: Variables): string {
  let result = ''
  let at = 0
  for (let start = line.indexOf('$('); start >= 0; start = line.indexOf('$(', at)) {
    let depth = 1
    let end = start + 2
    for (; end < line.length && depth > 0; end++) depth += line[end] === '(' ? 1 : line[end] === ')' ? -1 : 0
    if (depth > 0) throw new Error(`"${line.trim()}" lacks a )`)
    result += line.slice(at, start) + evaluate(line.slice(start + 2, end - 1), variables)
    at = end
  }
  return result + line.slice(at)
}

/**
 * Expands a shader.
 * @param name the file to start from
 * @param defines values of the names in #if, #repeat and $(...) expressions
 * @param read returns the text of a named file
 * @throws Error that describes a malformed directive, with its file and line, or a malformed expression
 */
export function preprocess(name: string, defines: Defines, read: (name: string) => string): string {
  const variables: Variables = new Map(Object.entries(defines))
  const output: string[] = []

  /** The line that closes the block opened before `from`, and the #else of that block, if any. */
  function blockEnd(lines: readonly string[], from: number, file: string): { end: number; middle: number } {
    let depth = 0
    let middle = -1
    for (let at = from; at < lines.length; at++) {
      const directive = /^\s*#(if|repeat|else|endif|end)\b/.exec(lines[at]!)?.[1]
      if (directive === 'if' || directive === 'repeat') depth++
      else if (directive === 'else' && depth === 0) middle = at
      else if (directive === 'endif' || directive === 'end') {
        if (depth === 0) return { end: at, middle }
        depth--
      }
    }
    throw new Error(`${file}:${from}: the block is not closed`)
  }

  function expand(lines: readonly string[], from: number, to: number, file: string): void {
    for (let at = from; at < to; at++) {
      const line = lines[at]!
      const directive = /^\s*#(\w+)\s*(.*)$/.exec(line)
      if (directive === null) {
        output.push(substitute(line, variables))
        continue
      }
      const [, keyword, rest = ''] = directive
      if (keyword === 'include') {
        const included = /^"([^"]+)"$/.exec(rest.trim())?.[1]
        if (included === undefined) throw new Error(`${file}:${at + 1}: #include needs a quoted file name`)
        const text = read(included).split('\n')
        expand(text, 0, text.length, included)
      } else if (keyword === 'if') {
        const { end, middle } = blockEnd(lines, at + 1, file)
        if (evaluate(rest, variables) !== 0) expand(lines, at + 1, middle < 0 ? end : middle, file)
        else if (middle >= 0) expand(lines, middle + 1, end, file)
        at = end
      } else if (keyword === 'repeat') {
        const { end } = blockEnd(lines, at + 1, file)
        const [, variable, count] = /^(\w+)\s+(.+)$/.exec(rest) ?? []
        if (variable === undefined || count === undefined)
          throw new Error(`${file}:${at + 1}: #repeat needs a name and a count`)
        const outer = variables.get(variable)
        const times = evaluate(count, variables)
        for (let i = 0; i < times; i++) {
          variables.set(variable, i)
          expand(lines, at + 1, end, file)
        }
        if (outer === undefined) variables.delete(variable)
        else variables.set(variable, outer)
        at = end
      } else throw new Error(`${file}:${at + 1}: unknown directive #${keyword}`)
    }
  }

  const lines = read(name).split('\n')
  expand(lines, 0, lines.length, name)
  return output.join('\n')
}
