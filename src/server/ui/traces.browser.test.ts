/** The trace pages in a real browser: what is seen, the keyboard, a phone's width, both colour schemes, the content policy. */
import type { Server } from 'node:http'
import { Hono } from 'hono'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SERVER_ACCESS } from '../../rag/access.ts'
import {
  CHROMIUM,
  hasChromium,
  isChromiumRequired,
  launchChromium,
  listen,
  shoot,
} from '../../../test/observability/chromium.ts'
import { play, testObservability, type TestObservability } from '../../../test/observability/scenario.ts'
import type { AppEnv } from '../env.ts'
import { registerRoutes } from '../router.ts'
import { traceHandlers } from '../traces.ts'

if (!hasChromium && isChromiumRequired) {
  it('finds Chromium, which MINISERVE_REQUIRE lists', () => expect(CHROMIUM).toBe('an existing file'))
}

describe.skipIf(!hasChromium)(`trace pages in Chromium${hasChromium ? '' : ` (skipped: no ${CHROMIUM})`}`, () => {
  let observability: TestObservability
  let server: Server
  let browser: Browser
  let url: string
  let good: string
  let flagged: string
  let failed: string
  /** The two requests of a conversation. */
  const talks: string[] = []
  const problems: string[] = []

  beforeAll(async () => {
    observability = testObservability({ traceDetail: 'steps', captureContent: true })
    const stepMicros = Array.from(
      { length: 160 },
      (_, i) => 7000 + Math.round(2500 * Math.sin(i / 9)) + (i % 37 === 0 ? 9000 : 0),
    )
    const served = await play(observability, 'formatting', {
      rag: true,
      isStreamed: true,
      plan: { stepMicros, numPromptTokens: 640, numCachedTokens: 512 },
    })
    served.trace.finish({ ending: 'success', status: 200 })
    good = served.trace.traceId
    const broken = await play(observability, 'formatting')
    // What a careless subscriber would do: past the table, straight onto the span.
    observability.subscriberHost.registry
      .get(broken.trace.requestId, 'http.handler')
      ?.span.setAttribute('llm.tokens.total', 3)
    broken.trace.finish({ ending: 'success', status: 200 })
    flagged = broken.trace.traceId
    const error = await play(observability, 'decoding')
    error.trace.finish({ ending: 'device_lost', status: 503 })
    error.finishEngine('error')
    failed = error.trace.traceId
    const talk = async (asked: string, answered: string | null) => {
      const { trace } = await play(observability, answered === null ? 'tokenized' : 'formatting', {
        input: { callerId: answered === null ? null : 'order-7731' },
      })
      trace.setConversation('tea/42')
      trace.setContent({ input: [{ role: 'user', parts: [{ type: 'text', content: asked }] }] })
      if (answered !== null)
        trace.setContent({ output: [{ role: 'assistant', parts: [{ type: 'text', content: answered }] }] })
      trace.finish(answered === null ? { ending: 'deadline', status: 504 } : { ending: 'success', status: 200 })
      talks.push(trace.traceId)
    }
    await talk('Which tea is green?', 'Sencha <b>is</b>.')
    await talk('And black?', null)
    const app = new Hono<AppEnv>()
    app.use(async (c, next) => {
      c.set('caller', { keyId: 'anonymous', isAdmin: true, cacheSalt: '', limits: null, indexes: SERVER_ACCESS })
      await next()
    })
    registerRoutes(app, traceHandlers({ observability, canSignIn: false }))
    const listening = await listen(app)
    server = listening.server
    url = `http://127.0.0.1:${listening.port}`
    browser = await launchChromium()
  })

  afterAll(async () => {
    await browser?.close()
    await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)))
    await observability?.shutdown(100)
  })

  async function visit(
    path: string,
    options: { readonly width?: number; readonly dark?: boolean } = {},
  ): Promise<Page> {
    const context = await browser.newContext({
      viewport: { width: options.width ?? 1200, height: 900 },
      colorScheme: options.dark ? 'dark' : 'light',
    })
    const page = await context.newPage()
    page.on('console', (message) => message.type() === 'error' && problems.push(message.text()))
    page.on('pageerror', (error) => problems.push(error.message))
    await page.goto(`${url}${path}`)
    return page
  }

  const overflow = (page: Page) =>
    page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')

  it('lists the traces and filters them', async () => {
    const page = await visit('/traces')
    expect(await page.locator('table.traces tbody tr').count()).toBe(5)
    await shoot(page, 'list-light')
    await page.selectOption('select[name=status]', 'error')
    await page.click('button[type=submit]')
    expect(await page.locator('table.traces tbody tr').count()).toBe(2)
    await page.locator('table.traces a').last().click()
    expect(page.url()).toContain(`/traces/${failed}`)
    expect(await page.locator('.tree .ending').first().textContent()).toBe('device_lost')
    await shoot(page, 'failed-light')
    await page.context().close()
  })

  it('finds a request by an id, a model, tokens, and shows how long all took', async () => {
    const page = await visit('/traces')
    const rows = page.locator('table.traces tbody tr')
    const bars = page.locator('.latencies a')
    expect(await bars.count()).toBeGreaterThan(0)
    expect(await page.locator('.latencies figcaption').textContent()).toMatch(/half below .* 95 % below/)
    await page.fill('input[name=id]', 'order-77')
    await page.keyboard.press('Enter')
    await page.waitForURL(/id=order-77/)
    expect(await rows.count()).toBe(1)
    expect(await rows.textContent()).toContain('order-7731')
    await page.fill('input[name=id]', '')
    await page.selectOption('select[name=model]', 'tiny')
    await page.fill('input[name=min_tokens_in]', '600')
    await page.click('button[type=submit]')
    expect(await rows.locator('a').first().getAttribute('href')).toBe(`/traces/${good}`)
    expect(await rows.count()).toBe(1)
    await page.goto(`${url}/traces`)
    await bars.first().click()
    await page.waitForURL(/min_ms=.*max_ms=/)
    expect(await rows.count()).toBeGreaterThan(0)
    await page.goto(`${url}/traces?id=nothing`)
    expect(await page.locator('.empty').textContent()).toBe('No trace matches the filter.')
    await page.context().close()
  })

  it('keeps the list current while the box is checked', async () => {
    const page = await visit('/traces?status=4xx')
    await page.check('#live')
    const { trace } = await play(observability, 'opened')
    trace.finish({ ending: 'validation', status: 422 })
    const row = page.locator('table.traces tbody tr', { hasText: trace.requestId })
    await row.waitFor()
    expect(await row.locator('.status').textContent()).toBe('422')
    await page.reload()
    expect(await page.isChecked('#live')).toBe(true)
    await page.context().close()
  })

  it('shows a conversation from its beginning on, with what was said where it was captured', async () => {
    const page = await visit(`/traces/${talks[1]}`, { dark: true })
    await page.locator('.sub a', { hasText: 'conversation' }).click()
    await page.waitForURL(/conversation=tea%2F42/)
    expect(await page.locator('h1').textContent()).toContain('tea/42')
    expect(await page.locator('.conversation p').allTextContents()).toEqual([
      'Which tea is green?',
      'Sencha <b>is</b>.',
      'And black?',
    ])
    expect(await page.locator('.conversation b').count()).toBe(0)
    const links = await page
      .locator('table.traces td a[href^="/traces/"]')
      .evaluateAll((all) => all.map((a) => a.getAttribute('href')))
    expect(links).toEqual(talks.map((id) => `/traces/${id}`))
    await shoot(page, 'conversation-dark')
    await page.context().close()
  })

  it('draws the spans in order on one axis, opens them by keyboard, shows the timeline, the log and the cache', async () => {
    const page = await visit(`/traces/${good}`, { dark: true })
    const names = await page.locator('details[data-span] > summary .name').allTextContents()
    expect(names).toEqual([
      'http.handler',
      'tokenize.input',
      'rag.retrieve',
      'embed.query',
      'vector.search',
      'rerank',
      'llm.prefill',
      'llm.decode',
      'format.output',
    ])
    expect(await page.locator('.verdict').textContent()).toContain('Validates against the span contract')
    expect(await page.locator('.facts').textContent()).toContain('512 of 640 tokens, diverged')
    expect(await page.locator('.logs li').count()).toBe(6)
    expect(await page.locator('.breakdown figcaption > span').count()).toBe(7)
    expect(await page.locator('.breakdown').textContent()).toMatch(
      /tokenize.*rag.*queue.*prefill.*decode.*format.*other/,
    )
    await page.locator('details[data-span] > summary').first().focus()
    for (let i = 0; i < 7; i++) await page.keyboard.press('ArrowDown')
    await page.keyboard.press('Enter')
    const decode = page.locator('details[data-span][open]')
    expect(await decode.locator('.name').textContent()).toBe('llm.decode')
    const steps = (await decode.locator('svg[data-steps]').getAttribute('data-steps'))?.split(' ') ?? []
    expect(steps).toHaveLength(160)
    await decode.locator('svg[data-steps]').hover()
    expect(await decode.locator('.readout').textContent()).toMatch(/^step \d+: \d+\.\d\d ms$/)
    await shoot(page, 'trace-dark')
    await page.keyboard.press('ArrowLeft')
    expect(await page.locator('details[data-span][open]').count()).toBe(0)
    await page.context().close()
  })

  it('flags a breach and leads to its span', async () => {
    const page = await visit(`/traces/${flagged}`)
    expect(await page.locator('section.verdict').textContent()).toContain('llm.tokens.total')
    await page.click('section.verdict a')
    expect(await page.locator('details[data-span][open] .breach').textContent()).toContain('attribute.unknown')
    await shoot(page, 'breach-light')
    await page.context().close()
  })

  it('fits a phone', async () => {
    for (const path of ['/traces', `/traces/${good}`, '/traces?conversation=tea%2F42']) {
      const page = await visit(path, { width: 390 })
      for (const summary of await page.locator('details[data-span] > summary').all()) await summary.click()
      expect(await overflow(page)).toBe(0)
      await shoot(
        page,
        path.includes('conversation') ? 'conversation-phone' : path === '/traces' ? 'list-phone' : 'trace-phone',
      )
      await page.context().close()
    }
  })

  it('works without script, and breaks no rule of its content policy', async () => {
    const context = await browser.newContext({ javaScriptEnabled: false })
    const page = await context.newPage()
    await page.goto(`${url}/traces/${good}`)
    await page.locator('details[data-span] > summary').last().click()
    expect(await page.locator('details[data-span][open]').textContent()).toContain('output.format')
    await context.close()
    expect(problems).toEqual([])
  })
})
