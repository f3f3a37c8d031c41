/** Folders and the hub. */
import { field } from './field.ts'
import { nonEmptyText, truthy, url } from './values.ts'

export const storageSettings = {
  cacheDir: field(nonEmptyText.nullable().default(null), {
    flag: 'cache-dir',
    env: 'MINISERVE_CACHE_DIR',
    value: 'FOLDER',
    help: 'folder for packed weights, the index of the bundled documents and the secret behind sessions and cache salts',
    defaultText: '~/.cache/miniserve',
  }),
  dataDir: field(nonEmptyText.nullable().default(null), {
    flag: 'data-dir',
    env: 'MINISERVE_DATA_DIR',
    value: 'FOLDER',
    help: 'folder for the document indexes of --rag-store memory',
    defaultText: '~/.local/share/miniserve',
  }),
  hfHome: field(nonEmptyText.nullable().default(null), {
    env: 'HF_HOME',
    help: 'folder of hub downloads',
    defaultText: '~/.cache/huggingface',
  }),
  hfHubCache: field(nonEmptyText.nullable().default(null), {
    env: 'HF_HUB_CACHE',
    help: 'hub folder, if it is not inside HF_HOME',
    defaultText: '$HF_HOME/hub',
  }),
  hfToken: field(nonEmptyText.nullable().default(null), { env: 'HF_TOKEN', help: 'hub token, for gated models' }),
  hfEndpoint: field(url.default('https://huggingface.co'), {
    env: 'HF_ENDPOINT',
    isUnquoted: true,
    help: 'URL of the hub',
  }),
  hfOffline: field(truthy.default(false), { env: 'HF_HUB_OFFLINE', help: 'never call the hub' }),
}
