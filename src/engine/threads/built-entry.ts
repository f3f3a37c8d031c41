/** Entries of worker threads. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/**
 * A worker's entry as JavaScript, at `path` within the engine's folder: beside the caller in dist/, and the built one when the caller runs from
 * src/ (tests), because a worker thread does not get the test runner's loader. Throws where it is not built.
 */
export function builtEntry(path: string): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL(`../${path}.js`, import.meta.url)
  const entry = new URL(`../../../dist/engine/${path}.js`, import.meta.url)
  if (!existsSync(fileURLToPath(entry))) throw new Error(`${fileURLToPath(entry)} not found: run npm run build first`)
  return entry
}
