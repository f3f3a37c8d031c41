// Lets worker threads and processes that the sources start run TypeScript in the tests, as vitest does on the main thread: `node --import` this file.
import { readFile } from 'node:fs/promises'
import { register } from 'node:module'
import { isMainThread } from 'node:worker_threads'
import { fileURLToPath } from 'node:url'

// A hook thread takes a while to start, and the main thread of a test file has vitest. Processes that tests fork ask for it.
const isTypeScriptProcess = process.argv[1]?.endsWith('.ts') || process.env.MINISERVE_TEST_TYPESCRIPT === '1'
if (!isMainThread || isTypeScriptProcess) register(import.meta.url)

/** Module hook: types of .ts files are removed. */
export async function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !new URL(url).pathname.endsWith('.ts')) return nextLoad(url, context)
  const path = fileURLToPath(url)
  const { transformSync } = await import('rolldown/utils')
  const { code, errors } = transformSync(path, await readFile(path, 'utf8'), { lang: 'ts', sourcemap: false })
  if (errors.length > 0) throw new SyntaxError(`${path}: ${errors[0].message}`)
  return { format: 'module', source: code, shortCircuit: true }
}
