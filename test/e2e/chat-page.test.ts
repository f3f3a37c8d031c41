/** The chat page in a real browser against the real process: what a new user does in the first five minutes. */
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { CHROMIUM, hasChromium, isChromiumRequired, launchChromium, shoot } from '../observability/chromium.ts'
import { ServerProcess } from './server-process.ts'

if (!hasChromium && isChromiumRequired) {
  it('finds Chromium, which MINISERVE_REQUIRE lists', () => expect(CHROMIUM).toBe('an existing file'))
}

describe.skipIf(!hasChromium)(`the chat page in Chromium${hasChromium ? '' : ` (skipped: no ${CHROMIUM})`}`, () => {
  let browser: Browser
  let open: ServerProcess
  let keyed: ServerProcess
  const problems: string[] = []

  beforeAll(async () => {
    browser = await launchChromium()
    open = await ServerProcess.start()
    keyed = await ServerProcess.start(['--api-key', 'k1'])
  })
  afterAll(async () => {
    await browser?.close()
    await open?.stop()
    await keyed?.stop()
  })
  afterEach(() => {
    expect(problems.splice(0)).toEqual([])
  })

  async function visit(url: string, options: { readonly width?: number; readonly dark?: boolean } = {}): Promise<Page> {
    const context = await browser.newContext({
      viewport: { width: options.width ?? 1100, height: 900 },
      colorScheme: options.dark ? 'dark' : 'light',
    })
    const page = await context.newPage()
    page.on('console', (message) => message.type() === 'error' && problems.push(message.text()))
    page.on('pageerror', (error) => problems.push(error.message))
    await page.goto(url)
    return page
  }

  async function ask(page: Page, text: string): Promise<void> {
    // The message can be seen before the page's script runs; until then Enter only begins a new line.
    await page.locator('#send:enabled').waitFor()
    await page.fill('#prompt', text)
    await page.keyboard.press('Enter')
  }

  const lastAnswer = (page: Page) => page.locator('.turn.assistant').last()

  it('answers, counts the tokens and leads to the trace of the answer', async () => {
    const page = await visit(open.url)
    await ask(page, 'What is the capital of France?')
    const answer = lastAnswer(page)
    await answer.locator('.stages').waitFor()
    expect((await answer.locator('.body').innerText()).trim().length).toBeGreaterThan(0)
    expect(await answer.locator('.counts').innerText()).toMatch(/\d+ tokens in.*\d+ out/)
    await shoot(page, 'chat-light')
    await answer.locator('a', { hasText: 'Trace' }).click()
    await page.waitForURL(/\/traces\/[0-9a-f]{32}$/)
    expect(await page.locator('h1').innerText()).toContain('/v1/chat/completions')
  })

  it('keeps a message that is written before its script runs', async () => {
    const page = await visit('about:blank')
    const asked = new Promise<() => Promise<void>>(
      (resolve) => void page.route('**/chat.js', (route) => resolve(() => route.continue())),
    )
    await page.goto(open.url, { waitUntil: 'commit' })
    await page.fill('#prompt', 'Hello')
    await page.keyboard.press('Enter')
    expect(await page.locator('#send').isDisabled()).toBe(true)
    const sendScript = await asked
    await sendScript()
    await page.locator('#send:enabled').click()
    expect(await page.locator('.turn.user').innerText()).toContain('Hello')
    await page.locator('#send').waitFor()
  })

  it('answers from documents and shows the passages', async () => {
    const page = await visit(open.url)
    await page.check('#rag')
    await ask(page, 'What is in the span tree contract?')
    const sources = lastAnswer(page).locator('.sources')
    await sources.locator('summary').click()
    await sources.locator('blockquote').first().waitFor()
    expect(await sources.innerText()).toMatch(/docs\/|README/)
    await shoot(page, 'chat-sources')
  })

  it('stops when it is told to, and goes on with the conversation', async () => {
    const page = await visit(open.url)
    // How long an answer is must not decide whether there is a button to click, or when the next one ends.
    await page.route('**/v1/chat/completions', (route) => {
      const body = route.request().postDataJSON()
      const length =
        body.messages.length === 1 ? { ignore_eos: true, max_completion_tokens: 6000 } : { max_completion_tokens: 8 }
      return route.continue({ postData: JSON.stringify({ ...body, ...length }) })
    })
    await ask(page, 'Tell me everything about the town by the river, from the beginning.')
    await lastAnswer(page).locator('.body', { hasText: /\w/ }).waitFor()
    await page.locator('#stop').click()
    await page.locator('#send').waitFor()
    await ask(page, 'And the bridge?')
    await page.locator('#send').waitFor()
    expect(await page.locator('.turn').count()).toBe(4)
    await page.locator('#clear').click()
    expect(await page.locator('.turn').count()).toBe(0)
  })

  it('says what went wrong', async () => {
    const page = await visit(open.url)
    await page.locator('summary', { hasText: 'Settings' }).click()
    await page.fill('#temperature', '7')
    await page.fill('#prompt', 'Hello')
    await page.evaluate(`document.getElementById('composer').requestSubmit()`)
    const words = await lastAnswer(page).locator('[role=alert]').innerText()
    expect(words).toContain('temperature')
    // The browser itself notes the answer's status.
    expect(problems.splice(0).every((problem) => problem.includes('400'))).toBe(true)
  })

  it('makes no markup of what is written', async () => {
    const page = await visit(open.url)
    await ask(
      page,
      '<img src=x onerror="document.title=1"> **bold** `code` [x](javascript:alert(1)) [y](https://example.test)',
    )
    const turn = page.locator('.turn.user').first()
    expect(await turn.locator('img').count()).toBe(0)
    expect(await turn.locator('strong').innerText()).toBe('bold')
    expect(await turn.locator('code').innerText()).toBe('code')
    expect(await turn.locator('a').evaluateAll((links) => links.map((link) => link.getAttribute('href')))).toEqual([
      'https://example.test',
    ])
    await page.locator('#send').waitFor()
  })

  it('says of each file whether it is indexed, with its warnings', async () => {
    const page = await visit('about:blank')
    // The list of indexes comes after the first file was sent.
    const sent = page.waitForRequest(/\/v1\/rag\/files\?/)
    await page.route('**/v1/rag/indexes', async (route) => {
      await sent
      await route.continue()
    })
    await page.goto(open.url)
    await page.setInputFiles('#files', [
      { name: 'menu.txt', mimeType: 'text/plain', buffer: Buffer.from('The caf\xe9 opens at nine.', 'latin1') },
      { name: 'empty.txt', mimeType: 'text/plain', buffer: Buffer.alloc(0) },
      { name: 'photo.png', mimeType: 'image/png', buffer: Buffer.from([0x89, 0xff]) },
    ])
    const lines = page.locator('#uploads li')
    await lines.nth(2).getByText('skipped').waitFor()
    expect((await lines.allInnerTexts()).map((line) => line.replace(/; the kinds.*/, ''))).toEqual([
      'menu.txt: indexed, 1 passage; the text is not UTF-8; it is read as Windows-1252',
      'empty.txt: skipped: the file is empty',
      'photo.png: skipped: expected UTF-8 text',
    ])
    expect(await page.locator('#rag').isChecked()).toBe(true)
  })

  it('fits a phone and a dark room', async () => {
    const page = await visit(open.url, { width: 360, dark: true })
    await ask(page, 'What is the capital of France?')
    await lastAnswer(page).locator('.stages').waitFor()
    expect(
      await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth'),
    ).toBeLessThanOrEqual(0)
    await shoot(page, 'chat-phone-dark')
  })

  it('asks for a key where keys are set, and then works with the session', async () => {
    const page = await visit(keyed.url)
    problems.length = 0
    await page.fill('#key', 'k1')
    await page.locator('button', { hasText: 'Sign in' }).click()
    await page.locator('#composer').waitFor()
    await ask(page, 'What is the capital of France?')
    await lastAnswer(page).locator('.stages').waitFor()
    const cookies = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join('; ')
    const body = { messages: [{ role: 'user', content: 'x' }] }
    // The cookie alone, as another site's page or a program would send it, opens nothing.
    expect((await keyed.post('/v1/chat/completions', body, { cookie: cookies })).status).toBe(401)
    const elsewhere = { cookie: cookies, origin: 'http://evil.example' }
    expect((await keyed.post('/v1/chat/completions', body, elsewhere)).status).toBe(401)
  })
})
