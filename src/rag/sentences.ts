/** Ends of sentences: punctuation with closing quotes before white space, and CJK full stops. */
export const SENTENCE_END = /(?:[.!?…]["'”’)\]]*(?=\s)|[。！？])\s*/g
