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
/** Some fields of an object on one line; an ellipsis stands for the others. */
function some(object, names) {
  const fields = names.filter((name) => name in object).map((name) => `"${name}": ${JSON.stringify(object[name])}`)
  return `{ ${fields.join(', ')}, … }`
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
  -d '{"prompt": "The river", "max_tokens": 12, "temperature": 0}'`
  const answer = sh(completion)
  const [head, body] = answer.split('\r\n\r\n')
  const traceId = /^x-trace-id: (\w+)/im.exec(head)?.[1]
  const shown = head.split('\r\n').filter((line) => /^(HTTP|x-trace-id)/i.test(line))
  const { choices, usage, timings } = JSON.parse(body)
  const completed = [
    '{',
    `  "choices": [${some(choices[0], ['text', 'finish_reason'])}],`,
    `  "usage": ${some(usage, ['prompt_tokens', 'completion_tokens'])},`,
    `  "timings": ${some(timings, ['prefill_ms', 'decode_ms', 'tokens_per_second'])}, …`,
    '}',
  ]

  const grep = `grep ${traceId} logs/miniserve.log`
  // The log file is flushed within 100 ms.
  sh('sleep 0.3')
  const lines = sh(grep).trimEnd().split('\n')
  const logs = lines.map((line) => some(JSON.parse(line), ['msg', 'duration_ms', 'trace_id']))

  const chat = `curl -s http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 24}'`
  const chatAnswer = sh(chat)

  const ingest = `curl -s http://127.0.0.1:8000/v1/rag/documents -H 'content-type: application/json' \\
  -d '{"index": "town", "documents": [
    {"id": "museum", "text": "The museum of Lorvik was founded by Mira Talven in 1902. It opens at nine."}]}'`
  const ingested = sh(ingest)
  const question = `curl -s http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \\
  -d '{"prompt": "Who founded the museum of Lorvik?", "rag": {"index": "town"}, "max_tokens": 32}'`
  const rag = sh(question)

  // The README pipes these through jq; the same selection here, so that the script does not need it.
  const examples = {
    completion: block('console', `$ ${completion}`, ...shown, '…', ...completed, `$ ${grep}`, ...logs),
    chat: block(
      'console',
      `$ ${chat} \\\n  | jq -c '.choices[0].message'`,
      JSON.stringify(JSON.parse(chatAnswer).choices[0].message),
    ),
    rag: block(
      'console',
      `$ ${ingest}`,
      ingested,
      `$ ${question} \\\n  | jq -c '{text: .choices[0].text, sources: [.rag.documents[].id]}'`,
      JSON.stringify({
        text: JSON.parse(rag).choices[0].text,
        sources: JSON.parse(rag).rag.documents.map(({ id }) => id),
      }),
    ),
  }
  let readme = readFileSync(join(root, 'README.md'), 'utf8')
  for (const [name, text] of Object.entries(examples)) {
    const section = new RegExp(`(<!-- example: ${name} -->\\n)[\\s\\S]*?(<!-- end -->)`)
    if (!section.test(readme)) throw new Error(`README.md has no section "example: ${name}"`)
    readme = readme.replace(section, (_, start, end) => `${start}${text}\n${end}`)
  }
  writeFileSync(join(root, 'README.md'), readme)
} finally {
  server.kill('SIGTERM')
  if (server.exitCode === null) await once(server, 'exit')
  rmSync(folder, { recursive: true, force: true })
}
