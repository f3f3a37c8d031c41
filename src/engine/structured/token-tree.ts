/** A vocabulary as a tree of bytes, laid out so that a walk over it is a loop over arrays. */

/** Bytes of all tokens, one after the other: token t from offsets[t] up to offsets[t + 1]. Empty: no grammar may draw it. */
export interface TokenBytes {
  readonly bytes: Uint8Array
  readonly offsets: Int32Array
}

/** Vocabulary as a prefix tree of bytes in preorder arrays. */
export class TokenTree {
  /** Nodes in preorder: the byte that leads to it, how many bytes lead to its parent, the node behind its subtree. */
  readonly byte: Uint8Array
  readonly depth: Int32Array
  readonly end: Int32Array
  /** The first token that ends in a node, -1 for none, and the next one with the same bytes. */
  readonly token: Int32Array
  readonly sameBytes: Int32Array

  constructor({ bytes, offsets }: TokenBytes) {
    const numTokens = offsets.length - 1
    const spelled: { readonly text: string; readonly token: number }[] = []
    for (let token = 0; token < numTokens; token++) {
      const text = Buffer.from(bytes.subarray(offsets[token], offsets[token + 1])).toString('latin1')
      if (text !== '') spelled.push({ text, token })
    }
    spelled.sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.token - b.token))
    const nodeBytes: number[] = []
    const depths: number[] = []
    const ends: number[] = []
    const tokens: number[] = []
    this.sameBytes = new Int32Array(numTokens).fill(-1)
    /** Nodes on the way to the last token. */
    const path: number[] = []
    let last = ''
    for (const { text, token } of spelled) {
      let shared = 0
      while (shared < last.length && shared < text.length && last.charCodeAt(shared) === text.charCodeAt(shared))
        shared++
      while (path.length > shared) ends[path.pop() ?? 0] = nodeBytes.length
      for (let i = shared; i < text.length; i++) {
        path.push(nodeBytes.length)
        nodeBytes.push(text.charCodeAt(i))
        depths.push(i)
        ends.push(0)
        tokens.push(-1)
      }
      const node = path.at(-1) ?? 0
      this.sameBytes[token] = tokens[node] ?? -1
      tokens[node] = token
      last = text
    }
    for (const node of path) ends[node] = nodeBytes.length
    this.byte = Uint8Array.from(nodeBytes)
    this.depth = Int32Array.from(depths)
    this.end = Int32Array.from(ends)
    this.token = Int32Array.from(tokens)
  }
}
