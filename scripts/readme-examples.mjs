#!/usr/bin/env node
// Rewrites the README's examples with what the server really answers: npm run build && node scripts/readme-examples.mjs
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const folder = mkdtempSync(join(tmpdir(), 'miniserve-readme-'))
const server = spawn(process.execPath, [join(root, 'dist', 'main.js'), '--port', '8000', '--data-dir', folder], {
  cwd: folder,
  stdio: ['ignore', 'ignore', 'pipe'],
})

/** Runs a command of the README in the server's folder. */
const sh = (command) => execFileSync('bash', ['-c', command], { cwd: folder, encoding: 'utf8' })
const block = (language, ...parts) => `\`\`\`${language}\n${parts.join('\n').trimEnd()}\n\`\`\``
const pretty = (text) => JSON.stringify(JSON.parse(text), null, 2)
/** Objects and arrays of plain values stand on one line where that line stays short. */
const compact = (text) =>
  pretty(text).replaceAll(/([[{])\n\s+([^[\]{}]*?)\n\s+([\]}])/g, (whole, open, inner, close) => {
    const line = `${open} ${inner.replaceAll(/\n\s+/g, ' ')} ${close}`
    return line.length <= 90 ? line : whole
  })
/** A log line with the fields that a reader looks for; an ellipsis stands for the others. */
function abbreviated(line) {
  const fields = JSON.parse(line)
  const shown = ['level', 'msg', 'duration_ms', 'trace_id'].filter((name) => name in fields)
  return `{${shown.map((name) => `"${name}":${JSON.stringify(fields[name])}`).join(',')},…}`
}

try {
  await new Promise((resolve, reject) => {
    let text = ''
    server.stderr.on('data', (chunk) => {
      text += chunk
      if (text.includes('ready on')) resolve(null)
    })
    server.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${text}`)))
  })
  const completion = `curl -si http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \\
  -d '{"prompt": "The river", "max_tokens": 24, "temperature": 0}'`
  const answer = sh(completion)
  const [head, body] = answer.split('\r\n\r\n')
  const traceId = /^x-trace-id: (\w+)/im.exec(head)?.[1]
  const shown = head.split('\r\n').filter((line) => /^(HTTP|x-trace-id|x-request-id)/i.test(line))

  const grep = `grep ${traceId} logs/miniserve.log`
  // The log file is flushed within 100 ms.
  sh('sleep 0.3')
  const logs = sh(grep).trimEnd().split('\n').map(abbreviated).join('\n')

  const chat = `curl -s http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 24}'`
  const chatAnswer = sh(chat)

  const ingest = `curl -s http://127.0.0.1:8000/v1/rag/documents -H 'content-type: application/json' \\
  -d '{"index": "town", "documents": [
    {"id": "museum", "text": "The museum of Lorvik was founded by Mira Talven in 1902. It opens at nine."},
    {"id": "bridge", "text": "The old bridge over the Senn is 85 metres long. Tomas Reller built it."}]}'`
  const ingested = sh(ingest)
  const question = `curl -s http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \\
  -d '{"prompt": "Who founded the museum of Lorvik?", "rag": {"index": "town"}, "max_tokens": 32}'`
  const rag = sh(question)

  const examples = {
    completion: block('console', `$ ${completion}`, ...shown, '', compact(body)),
    log: block('console', `$ ${grep}`, logs),
    // The README pipes these through jq; the same selection here, so that the script does not need it.
    chat: block(
      'console',
      `$ ${chat} \\\n  | jq -c '.choices[0].message'`,
      JSON.stringify(JSON.parse(chatAnswer).choices[0].message),
    ),
    rag: block(
      'console',
      `$ ${ingest}`,
      ingested,
      `$ ${question} \\\n  | jq '{text: .choices[0].text, rag}'`,
      compact(JSON.stringify({ text: JSON.parse(rag).choices[0].text, rag: JSON.parse(rag).rag })),
    ),
  }
  let readme = readFileSync(join(root, 'README.md'), 'utf8')
  for (const [name, text] of Object.entries(examples)) {
    const section = new RegExp(`(<!-- example: ${name} -->\\n)[\\s\\S]*?(<!-- end -->)`)
    if (!section.test(readme)) throw new Error(`README.md has no section "example: ${name}"`)
    readme = readme.replace(section, (_, start, end) => `${start}\n${text}\n\n${end}`)
  }
  writeFileSync(join(root, 'README.md'), readme)
} finally {
  server.kill('SIGTERM')
  if (server.exitCode === null) await once(server, 'exit')
  rmSync(folder, { recursive: true, force: true })
}
