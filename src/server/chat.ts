/** GET /: the page to type into. */
import { Hono } from 'hono'
import type { AppEnv } from './env.ts'
import { ChatPage } from './ui/chat-page.tsx'
import { html, visitorOf } from './ui/layout.tsx'

export interface ChatRouteParts {
  readonly hasRetrieval: boolean
  /** There are keys to sign in with. */
  readonly canSignIn: boolean
}

export function chatRoutes({ hasRetrieval, canSignIn }: ChatRouteParts): Hono<AppEnv> {
  return new Hono<AppEnv>().get('/', (c) => html(c, ChatPage({ visitor: visitorOf(c, canSignIn), hasRetrieval })))
}
