/** The frame of every page: no inline script or style, so that the strictest content policy fits. */
import type { Child } from 'hono/jsx'

export const PAGE_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  // Traces change and belong to a key: no shared cache may keep them.
  'cache-control': 'no-store',
}

export function Layout({ title, children }: { readonly title: string; readonly children?: Child }) {
  return (
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>{title}</title>
        <link rel="icon" href="/traces/assets/icon.svg" type="image/svg+xml" />
        <link rel="stylesheet" href="/traces/assets/traces.css" />
        <script src="/traces/assets/traces.js" defer></script>
      </head>
      <body>
        <header class="bar">
          <a class="brand" href="/traces">
            miniserve <span>traces</span>
          </a>
        </header>
        <main>{children}</main>
      </body>
    </html>
  )
}
