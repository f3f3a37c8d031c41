// The chat page: sends the conversation to /v1/chat/completions, shows the stream, and each answer's sources, speed and trace.
'use strict'

const $ = (id) => document.getElementById(id)
const composer = $('composer')
const prompt = $('prompt')
const turns = $('turns')
/** The conversation as the API takes it. */
let messages = []
let running = null

/** An element with properties and children. Text goes in as text nodes only: nothing a model writes is parsed as HTML. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties)
  made.append(...children)
  return made
}

// ---- Markdown, as far as models use it -------------------------------------------------------------------------------------

const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/g

function inline(text) {
  const parts = []
  let at = 0
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(at, match.index))
    const [whole, code, bold, italic, label, href] = match
    if (code !== undefined) parts.push(element('code', {}, code))
    else if (bold !== undefined) parts.push(element('strong', {}, bold))
    else if (italic !== undefined) parts.push(element('em', {}, italic))
    else parts.push(element('a', { href, rel: 'noreferrer noopener', target: '_blank' }, label))
    at = match.index + whole.length
  }
  parts.push(text.slice(at))
  return parts.filter((part) => part !== '')
}

function copyButton(text) {
  const button = element('button', { type: 'button', className: 'copy' }, 'Copy')
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(text)
    button.textContent = 'Copied'
  })
  return button
}

/** Blocks of Markdown as elements: fenced code, headings, lists and paragraphs. */
function markdown(text) {
  const blocks = []
  const lines = text.split('\n')
  for (let i = 0; i < lines.length;) {
    const line = lines[i]
    const fence = /^\s*(```+|~~~+)\s*([\w+-]*)/.exec(line)
    if (fence) {
      const end = lines.findIndex((other, j) => j > i && other.trim().startsWith(fence[1]))
      const code = lines.slice(i + 1, end < 0 ? lines.length : end).join('\n')
      const block = element('div', { className: 'code' }, element('pre', {}, element('code', {}, code)))
      if (navigator.clipboard) block.append(copyButton(code))
      blocks.push(block)
      i = end < 0 ? lines.length : end + 1
      continue
    }
    const heading = /^(#{1,4})\s+(.*)$/.exec(line)
    if (heading) {
      blocks.push(element(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2])))
      i++
      continue
    }
    const item = /^\s*(?:[-*+]|(\d+)[.)])\s+/.exec(line)
    if (item) {
      const list = element(item[1] === undefined ? 'ul' : 'ol')
      for (; i < lines.length; i++) {
        const more = /^\s*(?:[-*+]|\d+[.)])\s+(.*)$/.exec(lines[i])
        if (!more) break
        list.append(element('li', {}, ...inline(more[1])))
      }
      blocks.push(list)
      continue
    }
    if (line.trim() === '') {
      i++
      continue
    }
    const start = i
    while (
      i < lines.length &&
      lines[i].trim() !== '' &&
      (i === start || !/^\s*(```|~~~|#{1,4}\s|[-*+]\s|\d+[.)]\s)/.test(lines[i]))
    )
      i++
    blocks.push(element('p', {}, ...inline(lines.slice(start, i).join('\n'))))
  }
  return blocks
}

// ---- The conversation --------------------------------------------------------------------------------------------------------

function addTurn(role, name) {
  $('hint').hidden = true
  const body = element('div', { className: 'body' })
  const turn = element('li', { className: `turn ${role}` }, element('h2', {}, name), body)
  turns.append(turn)
  turn.scrollIntoView({ block: 'end' })
  return { turn, body }
}

const numberOf = (id) => ($(id).value === '' ? undefined : Number($(id).value))

function requestBody() {
  const system = $('system').value.trim()
  const body = {
    model: $('model').value || undefined,
    messages: [...(system === '' ? [] : [{ role: 'system', content: system }]), ...messages],
    stream: true,
    stream_options: { include_usage: true },
    temperature: numberOf('temperature'),
    top_p: numberOf('top-p'),
    max_tokens: numberOf('max-tokens'),
    seed: numberOf('seed'),
  }
  if ($('rag')?.checked) body.rag = $('index').value === '' ? true : { index: $('index').value }
  return body
}

/** The JSON of each `data:` line of a stream. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const lines = (rest + value).split('\n')
    rest = lines.pop()
    for (const line of lines) if (line.startsWith('data: ') && line !== 'data: [DONE]') yield JSON.parse(line.slice(6))
  }
}

async function errorOf(response) {
  const text = await response.text()
  try {
    return JSON.parse(text).error.message
  } catch {
    return `${response.status} ${response.statusText}`
  }
}

async function send(text) {
  messages.push({ role: 'user', content: text })
  addTurn('user', 'You').body.append(...markdown(text))
  const { turn, body } = addTurn('assistant', 'Model')
  const abort = new AbortController()
  setRunning(abort)
  let answer = ''
  let thought = ''
  let tail = {}
  let traceId = null
  let isDrawn = true
  const draw = () => {
    isDrawn = true
    const isInView = turn.getBoundingClientRect().bottom <= innerHeight
    const wasOpen = body.querySelector('details.thought')?.open ?? false
    const folded =
      thought === ''
        ? []
        : [
            element(
              'details',
              { className: 'thought', open: wasOpen },
              element('summary', {}, 'Thoughts'),
              ...markdown(thought),
            ),
          ]
    body.replaceChildren(...folded, ...markdown(answer.trimStart()))
    if (isInView) turn.scrollIntoView({ block: 'end' })
  }
  // Once per frame, however many tokens came.
  const redraw = () => {
    if (!isDrawn) return
    isDrawn = false
    requestAnimationFrame(draw)
  }
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(requestBody()),
      signal: abort.signal,
    })
    traceId = response.headers.get('x-trace-id')
    if (!response.ok) throw new Error(await errorOf(response))
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message)
      const delta = chunk.choices[0]?.delta
      answer += delta?.content ?? ''
      thought += delta?.reasoning_content ?? ''
      if (chunk.usage) tail = chunk
      redraw()
    }
  } catch (error) {
    const words = abort.signal.aborted ? 'Stopped.' : error.message
    turn.append(element('p', { className: 'bad', role: 'alert' }, words))
  }
  draw()
  messages.push({ role: 'assistant', content: answer })
  setRunning(null)
  turn.append(footer(tail, traceId, text))
}

function setRunning(abort) {
  running = abort
  $('send').hidden = abort !== null
  $('stop').hidden = abort === null
  $('status').textContent = abort === null ? '' : 'Answering …'
}

// ---- The footer of an answer -------------------------------------------------------------------------------------------

function footer({ usage, timings, rag }, traceId, question) {
  const made = element('footer')
  if (usage) {
    const speed = timings?.tokens_per_second ? `, ${Math.round(timings.tokens_per_second)} tokens/s` : ''
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0
    made.append(
      element(
        'p',
        { className: 'counts' },
        `${usage.prompt_tokens} tokens in${cached > 0 ? ` (${cached} cached)` : ''}, ${usage.completion_tokens} out${speed}`,
      ),
    )
  }
  if (rag) made.append(sources(rag, question))
  if (traceId) void showTrace(made, traceId)
  return made
}

/** Where a passage is: a link to it where its document has an address. */
function sourceName(source, anchor) {
  if (!/^https?:\/\//i.test(source)) return source + anchor
  return element(
    'a',
    { href: source.replace(/#.*/, '') + anchor, target: '_blank', rel: 'noreferrer' },
    source + anchor,
  )
}

/** The passages that an answer was made from; their texts are fetched when somebody looks. */
function sources(rag, question) {
  const list = element('ol')
  for (const { source, id, anchor, score } of rag.documents)
    list.append(
      element('li', {}, sourceName(source ?? id, anchor ?? ''), ' ', element('small', {}, `score ${score.toFixed(2)}`)),
    )
  const shown = element(
    'details',
    { className: 'sources' },
    element(
      'summary',
      {},
      `${rag.documents.length} ${rag.documents.length === 1 ? 'source' : 'sources'} from “${rag.index}”`,
    ),
    list,
  )
  shown.addEventListener(
    'toggle',
    async () => {
      const response = await fetch('/v1/rag/query', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ query: question, index: rag.index, top_n: Math.max(rag.documents.length, 1) }),
      })
      if (!response.ok) return
      const { documents } = await response.json()
      rag.documents.forEach(({ id, chunk }, i) => {
        const found = documents.find((other) => other.id === id && other.chunk === chunk)
        if (found) list.children[i].append(element('blockquote', {}, found.text))
      })
    },
    { once: true },
  )
  return shown
}

const STAGES = {
  'tokenize.input': 'tokenize',
  'rag.retrieve': 'rag',
  'llm.prefill': 'prefill',
  'llm.decode': 'decode',
  'format.output': 'format',
}

/** The answer's stages as a bar, and the way to the waterfall. A trace is stored a moment after its answer has ended, later on a busy machine. */
async function showTrace(footer, traceId) {
  const link = element('a', { href: `/traces/${traceId}` }, 'Trace')
  const line = element('p', { className: 'trace' }, link)
  footer.append(line)
  const response = await fetch(`/v1/traces/${traceId}?wait=20`)
  if (!response.ok) return
  const spans = (await response.json()).resourceSpans.flatMap(({ scopeSpans }) =>
    scopeSpans.flatMap(({ spans: some }) => some),
  )
  const milliseconds = (span) => Number(BigInt(span.endTimeUnixNano) - BigInt(span.startTimeUnixNano)) / 1e6
  const root = spans.find(({ name }) => name === 'http.handler')
  if (!root) return
  const bar = element('span', { className: 'stages', role: 'img' })
  const words = []
  for (const [name, stage] of Object.entries(STAGES)) {
    const span = spans.find((other) => other.name === name)
    if (!span) continue
    const part = element('span', { className: stage })
    part.style.flexGrow = String(Math.max(milliseconds(span), 0.001))
    bar.append(part)
    words.push(`${stage} ${milliseconds(span).toFixed(1)} ms`)
  }
  bar.title = words.join(', ')
  bar.setAttribute('aria-label', `Stages: ${bar.title}`)
  line.prepend(bar)
  link.textContent = `Trace (${milliseconds(root).toFixed(0)} ms)`
}

// ---- Models, indexes, documents ----------------------------------------------------------------------------------------------

async function listModels() {
  const response = await fetch('/v1/models')
  if (!response.ok) return
  const { data } = await response.json()
  const languageModels = data.filter(({ kind }) => kind === undefined || kind === 'generation' || kind === 'language')
  $('model').replaceChildren(...languageModels.map(({ id }) => element('option', { value: id }, id)))
}

async function listIndexes(chosen) {
  if (!$('index')) return
  const response = await fetch('/v1/rag/indexes')
  if (!response.ok) return
  const { default: usual, indexes } = await response.json()
  const names = new Set([usual, ...indexes.map(({ name }) => name)])
  const options = [...names].map((name) => {
    const found = indexes.find((index) => index.name === name)
    const size = found ? ` (${counted(found.documents, 'document')}${found.bundled ? ', built in' : ''})` : ' (empty)'
    return element('option', { value: name, selected: name === (chosen ?? usual) }, name + size)
  })
  $('index').replaceChildren(...options)
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`

async function upload(files) {
  // Before the list has come there is no index to name, and the server takes its default.
  const index = $('index').value || undefined
  for (const file of files) {
    const status = element('span', {}, 'reading …')
    $('uploads').append(element('li', {}, `${file.name}: `, status))
    try {
      if (file.size === 0) throw new Error('the file is empty')
      status.textContent = 'indexing …'
      const query = new URLSearchParams({ ...(index && { index }), name: file.name })
      const response = await fetch(`/v1/rag/files?${query}`, {
        method: 'POST',
        headers: { 'content-type': 'application/octet-stream' },
        body: file,
      })
      if (!response.ok) throw new Error(await errorOf(response))
      const { accepted, rejected, warnings, chunks } = await response.json()
      status.textContent =
        accepted > 0
          ? [`indexed, ${counted(chunks, 'passage')}`, ...warnings.map(({ reason }) => reason)].join('; ')
          : `skipped: ${rejected[0]?.reason ?? 'no text'}`
      if (accepted > 0) $('rag').checked = true
    } catch (error) {
      status.textContent = `skipped: ${error.message}`
      status.className = 'bad'
    }
  }
  await listIndexes(index)
}

composer.addEventListener('submit', (event) => {
  event.preventDefault()
  const text = prompt.value.trim()
  if (text === '' || running) return
  prompt.value = ''
  void send(text)
})
prompt.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
  event.preventDefault()
  composer.requestSubmit()
})
// Already when pressed: the button moves while text arrives, and a click needs press and release in one place. Keys only click.
for (const type of ['pointerdown', 'click']) $('stop').addEventListener(type, () => running?.abort())
$('clear').addEventListener('click', () => {
  running?.abort()
  messages = []
  turns.replaceChildren()
  $('hint').hidden = false
  prompt.focus()
})
const drop = $('drop')
if (drop) {
  $('files').disabled = false
  $('files').addEventListener('change', async (event) => {
    await upload([...event.target.files])
    event.target.value = ''
  })
  for (const type of ['dragenter', 'dragover']) {
    drop.addEventListener(type, (event) => {
      event.preventDefault()
      drop.classList.add('over')
    })
  }
  for (const type of ['dragleave', 'drop']) drop.addEventListener(type, () => drop.classList.remove('over'))
  drop.addEventListener('drop', (event) => {
    event.preventDefault()
    void upload([...event.dataTransfer.files])
  })
}
void listModels()
void listIndexes()
$('send').disabled = false
