/** Signing in to the trace pages in a real browser, and what another site's page can do with the session: nothing. */
import type { Server } from 'node:http'
import { Hono } from 'hono'
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CHROMIUM, hasChromium, launchChromium, listen, shoot } from '../../../test/observability/chromium.ts'
import { play, testObservability, type TestObservability } from '../../../test/observability/scenario.ts'
import type { AppEnv } from '../env.ts'
import { createKeys } from '../keys.ts'
import { allowOrigins, renderError, requestTrace, requireKey } from '../middleware.ts'
import { sessionHandlers } from '../session.ts'
import { FailedAttempts } from '../failed-attempts.ts'
import { registerRoutes } from '../router.ts'
import { traceHandlers } from '../traces.ts'

describe.skipIf(!hasChromium)(`signing in with Chromium${hasChromium ? '' : ` (skipped: no ${CHROMIUM})`}`, () => {
  const keys = createKeys({ keys: ['alice-key'], adminKey: null, secret: Buffer.alloc(32, 3) })
  const servers: Server[] = []
  let observability: TestObservability
  let browser: Browser
  let url: string
  /** A page of another site, with a link, a form and a script that would use the session. */
  let elsewhere: string
  let traceId: string
  let numGenerations = 0

  beforeAll(async () => {
    observability = testObservability()
    const keyId = keys.authenticate('Bearer alice-key', undefined)?.keyId ?? ''
    const { trace } = await play(observability, 'formatting', { input: { keyId } })
    trace.finish({ ending: 'success', status: 200 })
    traceId = trace.traceId
    const app = new Hono<AppEnv>()
    app.onError(renderError)
    app.use(requestTrace(observability))
    // The worst that an operator can allow.
    app.use(allowOrigins(['*']))
    app.use(requireKey(keys, new FailedAttempts()))
    registerRoutes(app, { ...sessionHandlers(keys), ...traceHandlers({ observability, canSignIn: true }) })
    app.post('/v1/completions', (c) => {
      numGenerations++
      return c.json({})
    })
    const own = await listen(app)
    url = `http://127.0.0.1:${own.port}`
    const other = new Hono().get('/', (c) =>
      c.html(`<a id="link" href="${url}/traces/${traceId}">a trace</a>
        <form id="leave" method="post" action="${url}/traces/sign-out"><button>out</button></form>
        <form id="spend" method="post" enctype="text/plain" action="${url}/v1/completions"><input name='{"prompt":"' value='"}'><button>spend</button></form>`),
    )
    const site = await listen(other)
    // Another host name is another site; another port would not be.
    elsewhere = `http://localhost:${site.port}/`
    servers.push(own.server, site.server)
    browser = await launchChromium()
  })

  afterAll(async () => {
    await browser?.close()
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
    await observability?.shutdown(100)
  })

  it('takes a key once, and leads to the trace that was asked for', async () => {
    const context = await browser.newContext({ viewport: { width: 390, height: 700 } })
    const page = await context.newPage()
    await page.goto(`${url}/traces/${traceId}`)
    await page.fill('#key', 'mallory-key')
    await page.keyboard.press('Enter')
    await page.waitForSelector('[role=alert]')
    expect(await context.cookies()).toEqual([])
    await shoot(page, 'sign-in-phone')
    await page.fill('#key', 'alice-key')
    await page.keyboard.press('Enter')
    await page.waitForURL(`${url}/traces/${traceId}`)
    expect(await page.locator('details[data-span]').count()).toBe(5)
    const [cookie] = await context.cookies()
    expect(cookie).toMatchObject({ name: 'miniserve_session', httpOnly: true, sameSite: 'Strict', path: '/' })
    expect(await page.evaluate('document.cookie')).toBe('')
    // The downloads of the page belong to the session, too.
    const download = page.waitForEvent('download')
    await page.click('.downloads a')
    expect(await (await download).failure()).toBeNull()
    await page.click('header button')
    await page.waitForSelector('#key')
    expect(await context.cookies()).toEqual([])
    await context.close()
  })

  it("follows another site's link, and serves no other wish of it", async () => {
    const context = await browser.newContext()
    const page = await context.newPage()
    await page.goto(`${url}/traces`)
    await page.fill('#key', 'alice-key')
    await page.keyboard.press('Enter')
    await page.waitForSelector('table.traces')

    await page.goto(elsewhere)
    await page.click('#link')
    await page.waitForSelector('details[data-span]')

    await page.goto(elsewhere)
    const stolen = page.evaluate(
      `fetch('${url}/v1/traces/${traceId}', { credentials: 'include' }).then((response) => response.status, () => 'blocked')`,
    )
    expect(await stolen).toBe('blocked')
    expect(await page.evaluate(`fetch('${url}/v1/traces/${traceId}').then((response) => response.status)`)).toBe(401)

    const answers: number[] = []
    page.on('response', (response) => response.request().method() === 'POST' && answers.push(response.status()))
    for (const form of ['#leave', '#spend']) {
      await page.goto(elsewhere)
      await Promise.all([page.waitForNavigation(), page.click(`${form} button`)])
    }
    expect(answers).toEqual([403, 401])
    expect(numGenerations).toBe(0)
    expect(await context.cookies()).toHaveLength(1)
    await context.close()
  })
})
