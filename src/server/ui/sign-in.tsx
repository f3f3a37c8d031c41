/** The sign-in form, and the page that reloads itself after a link from another site. */
import { ROUTES } from '../routes.ts'
import { Layout } from './layout.tsx'

/** The sign-in form. @param to path to go to afterwards */
export function SignInPage({ to, isRefused }: { readonly to: string; readonly isRefused: boolean }) {
  return (
    <Layout title="Sign in · miniserve">
      <form class="sign-in" method="post" action={ROUTES.signIn.path}>
        <h1>Sign in</h1>
        <p>
          With an API key of this server you can chat and see your own traces. With the admin key you see all traces.
        </p>
        <label for="key">API key</label>
        <input
          id="key"
          name="key"
          type="password"
          autocomplete="current-password"
          required
          autofocus
          aria-invalid={isRefused ? 'true' : undefined}
          aria-describedby={isRefused ? 'refused' : undefined}
        />
        {isRefused ? (
          <p id="refused" class="bad" role="alert">
            This key is not valid.
          </p>
        ) : null}
        <input type="hidden" name="to" value={to} />
        <button type="submit">Sign in</button>
      </form>
    </Layout>
  )
}

/** The browser loads the page again from this server's own page, and then sends its cookie. */
export function OwnNavigationPage() {
  return (
    <Layout title="miniserve" isRefreshed>
      <p class="empty">
        <a href="">Continue to the trace</a>
      </p>
    </Layout>
  )
}
