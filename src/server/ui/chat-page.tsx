/** The chat page: a conversation with a served model, with or without documents. chat.js makes it work. */
import { Layout, type Visitor } from './layout.tsx'

interface ChatPageProps {
  readonly visitor: Visitor
  /** Whether the server can answer from documents. */
  readonly hasRetrieval: boolean
}

/** The chat page. */
export function ChatPage({ visitor, hasRetrieval }: ChatPageProps) {
  return (
    <Layout title="miniserve" visitor={visitor} script="chat.js" current="chat">
      <div class="chat">
        <h1 class="unseen">Chat</h1>
        <ol class="turns" id="turns" aria-live="polite" aria-label="Conversation"></ol>
        <p class="empty" id="hint">
          Ask the model something. Every answer links to its trace.
        </p>
        <noscript>
          <p class="bad">The chat needs JavaScript. The API and the trace pages work without it.</p>
        </noscript>
        <form class="composer" id="composer">
          <label class="unseen" for="prompt">
            Message
          </label>
          <textarea
            id="prompt"
            name="prompt"
            rows={3}
            placeholder="Message (Enter to send, Shift+Enter for a new line)"
            required
            autofocus
          ></textarea>
          <div class="actions">
            {/* chat.js enables it: a form that was sent before then would load the page again and lose the message. */}
            <button type="submit" id="send" disabled>
              Send
            </button>
            <button type="button" id="stop" hidden>
              Stop
            </button>
            <button type="button" id="clear">
              New chat
            </button>
            <span id="status" role="status"></span>
          </div>
        </form>
        <details class="settings">
          <summary>Settings</summary>
          <div class="filter">
            <label>
              Model
              <select id="model"></select>
            </label>
            <label>
              Temperature
              <input id="temperature" type="number" min="0" max="2" step="0.1" placeholder="model default" />
            </label>
            <label>
              Top p
              <input id="top-p" type="number" min="0" max="1" step="0.05" placeholder="model default" />
            </label>
            <label>
              Max tokens
              <input id="max-tokens" type="number" min="1" step="1" placeholder="no limit" />
            </label>
            <label>
              Seed
              <input id="seed" type="number" step="1" placeholder="random" />
            </label>
          </div>
          <label class="system">
            System prompt
            <textarea id="system" rows={2}></textarea>
          </label>
        </details>
        {hasRetrieval ? (
          <details class="settings" id="documents" open>
            <summary>Documents</summary>
            <div class="filter">
              <label class="switch">
                <input id="rag" type="checkbox" />
                Answer from documents
              </label>
              <label>
                Index
                <select id="index"></select>
              </label>
            </div>
            <label class="drop" id="drop">
              <input id="files" type="file" multiple disabled />
              Drop documents here or choose files. They are added to the selected index and replace built-in documents.
            </label>
            <ul id="uploads" aria-live="polite"></ul>
          </details>
        ) : null}
      </div>
    </Layout>
  )
}
