/** Model specs to local paths. Hub downloads are being added; local folders and files are resolved here. */
import { existsSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import type { ProgressListener } from '../runner/runner.ts'
import { ModelError } from '../runner/runner.ts'

export interface ResolveOptions {
  readonly cacheDir: string
  readonly token: string | null
  readonly endpoint: string
  readonly offline: boolean
  readonly onProgress?: ProgressListener
}

/** A folder or file on disk, or a hub id, as a local path and the name to serve it under. */
export async function resolveModel(spec: string, _options: ResolveOptions): Promise<{ path: string; name: string }> {
  const path = resolve(spec)
  if (existsSync(path)) return { path, name: basename(path).replace(/\.gguf$/, '') }
  throw new ModelError(`--model ${spec}: expected a folder or a .gguf file, found nothing at ${path}`)
}
