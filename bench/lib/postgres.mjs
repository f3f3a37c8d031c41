// A PostgreSQL server of a test's or a bench's own: a fresh cluster in a temporary folder on a free loopback port.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Folder of the programs of an installed server that has pgvector; null: test/rag/install-pgvector.sh installs one. */
export function postgresBinaries() {
  const root = '/usr/lib/postgresql'
  const versions = existsSync(root) ? readdirSync(root).toSorted((a, b) => Number(b) - Number(a)) : []
  const version = versions.find((name) => existsSync(`/usr/share/postgresql/${name}/extension/vector.control`))
  return version === undefined ? null : join(root, version, 'bin')
}

/** The server refuses to run as root. */
function unprivileged() {
  if (process.getuid?.() !== 0) return null
  const id = (flag) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  return { uid: id('-u'), gid: id('-g') }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  server.close()
  await once(server, 'close')
  return port
}

/**
 * Starts a server; resolves when it takes connections.
 * @param {string} binaries folder of its programs
 * @param {readonly string[]} settings as `name=value`, over those of a new cluster
 */
export async function startPostgres(binaries, settings = ['fsync=off']) {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-postgres-'))
  const user = unprivileged()
  if (user) chownSync(folder, user.uid, user.gid)
  const data = join(folder, 'data')
  const options = { cwd: folder, ...user }
  const initArgs = ['-D', data, '-U', 'miniserve', '--auth=trust', '--no-sync', '-E', 'UTF8', '--locale=C']
  execFileSync(join(binaries, 'initdb'), initArgs, { ...options, stdio: 'ignore' })
  const port = await freePort()
  const given = ['listen_addresses=127.0.0.1', ...settings].flatMap((setting) => ['-c', setting])
  const server = spawn(join(binaries, 'postgres'), ['-D', data, '-p', String(port), '-k', folder, ...given], {
    ...options,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  await new Promise((resolve, reject) => {
    let log = ''
    server.stderr.setEncoding('utf8').on('data', (text) => {
      log = (log + text).slice(-10_000)
      if (log.includes('ready to accept connections')) resolve(undefined)
    })
    server.once('exit', (code) => reject(new Error(`postgres ended with code ${code}: ${log}`)))
  })
  const end = async () => {
    const exited = once(server, 'exit')
    server.kill('SIGINT')
    await exited
    rmSync(folder, { recursive: true, force: true })
  }
  /** @type {Promise<void> | undefined} */
  let ended
  return {
    url: `postgres://miniserve@127.0.0.1:${port}/postgres`,
    stop: () => (ended ??= end()),
  }
}
