/** GET /: the page to type into. */
import type { Handlers } from './router.ts'
import { ChatPage } from './ui/chat-page.tsx'
import { html, visitorOf } from './ui/layout.tsx'

interface ChatRouteParts {
  readonly hasRetrieval: boolean
  /** There are keys to sign in with. */
  readonly canSignIn: boolean
}

export const chatHandlers = ({ hasRetrieval, canSignIn }: ChatRouteParts): Pick<Handlers, 'showChat'> => ({
  showChat: (c) => html(c, ChatPage({ visitor: visitorOf(c, canSignIn), hasRetrieval })),
})
