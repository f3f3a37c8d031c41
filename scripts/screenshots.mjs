#!/usr/bin/env node
// Takes the README's pictures of the waterfall page: npm run build && node scripts/screenshots.mjs
// Needs Chromium (CHROMIUM names it, else /usr/bin/chromium).
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const images = join(root, 'docs', 'images')
const folder = mkdtempSync(join(tmpdir(), 'miniserve-pictures-'))
const server = spawn(process.execPath, [join(root, 'dist', 'main.js'), '--port', '0', '--data-dir', folder], {
  cwd: folder,
  stdio: ['ignore', 'ignore', 'pipe'],
})

try {
  const base = await new Promise((resolve, reject) => {
    let text = ''
    server.stderr.on('data', (chunk) => {
      text += chunk
      const url = /ready on (http:\S+)/.exec(text)?.[1]
      if (url !== undefined) resolve(url)
    })
    server.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${text}`)))
  })
  const ask = () =>
    fetch(`${base}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'What does the trace of a request show?', rag: true, max_tokens: 64 }),
    })
  // The first answer also starts the retrieval models; the picture shows a warm server.
  await (await ask()).text()
  const answer = await ask()
  await answer.text()
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium' })
  mkdirSync(images, { recursive: true })
  for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
    const page = await browser.newPage({ colorScheme, viewport: { width: 1200, height: 660 } })
    await page.goto(`${base}/traces/${answer.headers.get('x-trace-id')}`)
    await page.screenshot({ path: join(images, `waterfall-${colorScheme}.png`) })
  }
  await browser.close()
} finally {
  server.kill('SIGTERM')
  if (server.exitCode === null) await once(server, 'exit')
  rmSync(folder, { recursive: true, force: true })
}
