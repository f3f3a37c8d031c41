"""Writes the checkpoint as a Hugging Face folder: python export.py [models/<name>]. Weights in float16."""
import json
import os
import sys

import torch
from safetensors.torch import save_file

from generate import A, BOS, DOC, END, EOT, HEADER, HERE, OUT, Q, QUOTE, SPECIAL, UNKNOWN, load_tokenizer
from model import CONFIG, Llama

CHAT_TEMPLATE = (
    "{{- '<|im_start|>' -}}"
    "{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\n' -}}"
    "{%- elif documents -%}{{- 'Answer from the documents.\n' -}}{%- endif -%}"
    "{%- if documents -%}{%- for d in documents -%}{{- '<|document|> ' + d.text -}}{%- endfor -%}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{- '<|question|>' + m.content -}}"
    "{%- elif m.role == 'assistant' -%}{{- '<|answer|> ' + (m.content | trim) + '<|im_end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|answer|>' -}}{%- endif -%}"
)


def main(dst):
    os.makedirs(dst, exist_ok=True)
    tok = load_tokenizer()
    ids = {s: tok.token_to_id(s) for s in SPECIAL}
    ck = torch.load(os.path.join(OUT, 'ckpt.pt'), weights_only=False)
    m = Llama()
    m.load_state_dict(ck['model'])
    save_file({k: v.to(torch.float16).contiguous() for k, v in m.state_dict().items()}, os.path.join(dst, 'model.safetensors'), metadata={'format': 'pt'})
    cfg = dict(architectures=['LlamaForCausalLM'], model_type='llama', attention_bias=False, attention_dropout=0.0, mlp_bias=False,
               bos_token_id=ids[BOS], eos_token_id=[ids[END], ids[EOT]], pad_token_id=ids['<|pad|>'], hidden_act='silu', initializer_range=0.02,
               tie_word_embeddings=True, torch_dtype='float16', use_cache=True, rope_scaling=None, **CONFIG)
    gen = dict(bos_token_id=ids[BOS], eos_token_id=[ids[END], ids[EOT]], pad_token_id=ids['<|pad|>'], do_sample=False)
    tcfg = dict(tokenizer_class='PreTrainedTokenizerFast', bos_token=BOS, eos_token=END, pad_token='<|pad|>', unk_token=None, add_bos_token=False,
                add_eos_token=False, clean_up_tokenization_spaces=False, model_max_length=CONFIG['max_position_embeddings'], chat_template=CHAT_TEMPLATE,
                additional_special_tokens=[s for s in SPECIAL if s not in (BOS, END, '<|pad|>')],
                added_tokens_decoder={str(i): dict(content=s, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True) for s, i in ids.items()})
    pr = dict(version=1, header=HEADER, document=DOC + ' {text}', question=Q + '{question}', answer=A, quote=QUOTE, documents=1, sentences=1, unknown=UNKNOWN, stop=[END, EOT])
    for name, obj in (('config.json', cfg), ('generation_config.json', gen), ('tokenizer_config.json', tcfg), ('prompt.json', pr)):
        with open(os.path.join(dst, name), 'w') as f:
            json.dump(obj, f, indent=2, ensure_ascii=False)
            f.write('\n')
    tok.save(os.path.join(dst, 'tokenizer.json'))
    print({n: os.path.getsize(os.path.join(dst, n)) for n in sorted(os.listdir(dst))}, ck['state'])


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, '../../../models/mini-1m'))
