"""The Llama architecture in plain PyTorch, with the tensor names of Hugging Face's `LlamaForCausalLM` so that export is a copy."""
import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = dict(vocab_size=4096, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
              intermediate_size=384, rope_theta=1000000.0, rms_norm_eps=1e-5, max_position_embeddings=8192)


class Norm(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.hd, self.nh, self.nk = c['hidden_size'], c['head_dim'], c['num_attention_heads'], c['num_key_value_heads']
        self.q_proj = nn.Linear(d, self.nh * self.hd, bias=False)
        self.k_proj = nn.Linear(d, self.nk * self.hd, bias=False)
        self.v_proj = nn.Linear(d, self.nk * self.hd, bias=False)
        self.o_proj = nn.Linear(self.nh * self.hd, d, bias=False)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        # one wide product is faster on a CPU than three narrow ones
        qkv = F.linear(x, torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)))
        qkv = qkv.view(b, t, -1, self.hd).transpose(1, 2)
        qk = rotate(qkv[:, :self.nh + self.nk], cos, sin)
        q, k, v = qk[:, :self.nh], qk[:, self.nh:], qkv[:, self.nh + self.nk:]
        g = self.nh // self.nk
        if t <= 300:  # plain products are faster than the CPU's fused attention on short rows
            s = (q.reshape(b, self.nk, g * t, self.hd) @ k.transpose(2, 3)).view(b, self.nk, g, t, t) * self.hd ** -0.5 + mask
            y = (s.softmax(-1).view(b, self.nk, g * t, t) @ v).view(b, self.nh, t, self.hd)
        else:
            y = F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, h = c['hidden_size'], c['intermediate_size']
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(d, h, bias=False), nn.Linear(d, h, bias=False), nn.Linear(h, d, bias=False)

    def forward(self, x):
        g, u = F.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, -1)
        return self.down_proj(F.silu(g) * u)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(c['hidden_size'], c['rms_norm_eps']), Attention(c)
        self.post_attention_layernorm, self.mlp = Norm(c['hidden_size'], c['rms_norm_eps']), Mlp(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Inner(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c['vocab_size'], c['hidden_size'])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c['num_hidden_layers']))
        self.norm = Norm(c['hidden_size'], c['rms_norm_eps'])


class Llama(nn.Module):
    """ids [batch, time] -> final hidden states [batch, time, hidden]; `logits` multiplies by the tied embedding."""

    def __init__(self, c=CONFIG):
        super().__init__()
        self.c, self.model = c, Inner(c)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.05)
        for layer in self.model.layers:
            for name, p in layer.named_parameters():
                if p.ndim == 2:
                    if 'o_proj' in name or 'down_proj' in name:
                        nn.init.zeros_(p)
                    else:
                        nn.init.normal_(p, std=p.shape[1] ** -0.5)
        f = c['rope_theta'] ** (-torch.arange(0, c['head_dim'], 2).float() / c['head_dim'])
        ang = torch.arange(c['max_position_embeddings']).float()[:, None] * f
        self.register_buffer('cos', ang.cos(), persistent=False)
        self.register_buffer('sin', ang.sin(), persistent=False)

    def forward(self, ids):
        t = ids.shape[1]
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[:t], self.sin[:t]
        mask = torch.full((t, t), float('-inf')).triu(1)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def logits(self, h):
        return h @ self.model.embed_tokens.weight.T


@torch.no_grad()
def transplant(weights, old, new):
    """Weights for another vocabulary: a token both know keeps its embedding, another starts as the mean of its pieces in the old one."""
    e = weights['model.embed_tokens.weight']
    out = torch.zeros(new.get_vocab_size(), e.shape[1])
    known = old.get_vocab()
    for s, i in new.get_vocab().items():
        pieces = [known[s]] if s in known else old.encode(new.decode([i], skip_special_tokens=False), add_special_tokens=False).ids
        out[i] = e[pieces].mean(0)
    return weights | {'model.embed_tokens.weight': out}


@torch.no_grad()
def copying_init(m, const=0.25, content=0.08, peak=2.5, match=1.8, gain=3.0):
    """Starts the model with working copying heads instead of waiting for them to form, which took longer than the whole run on one core.

    Residual dimensions at the start: 0 a constant, 1-63 the token, 64-127 the previous token. Layer 0 writes the previous token (the
    constant, turned by rotary embedding, makes scores that peak one position back). Layers 1 and 2 look for an earlier position whose
    previous token is the current one (induction heads: Olsson et al., 2022), on the slowly rotating pairs only, and add the token found
    there to the token dimensions, which the tied embedding turns into logits. Everything is trained from there.
    """
    c = m.c
    hd, half, nk = c['head_dim'], c['head_dim'] // 2, c['num_key_value_heads']
    g = c['num_attention_heads'] // nk
    e = m.model.embed_tokens.weight
    e.zero_()
    e[:, 0] = const
    e[:, 1:64].normal_(std=content)
    f = c['rope_theta'] ** (-torch.arange(0, hd, 2).float() / hd)
    a = m.model.layers[0].self_attn
    for k in range(nk):
        q0, k0 = k * g * hd, k * hd
        a.q_proj.weight[q0:q0 + hd] *= 0.02
        a.k_proj.weight[k0:k0 + hd] *= 0.02
        for i in range(6):
            a.q_proj.weight[q0 + i, 0] = peak
            a.k_proj.weight[k0 + i, 0] = peak * torch.cos(f[i])
            a.k_proj.weight[k0 + half + i, 0] = peak * torch.sin(f[i])
        a.v_proj.weight[k0:k0 + hd].zero_()
        for j in range(hd if k == 0 else hd - 1):
            a.v_proj.weight[k0 + j, 1 + k * hd + j] = 1
            a.o_proj.weight[64 + k * hd + j, q0 + j] = content
    slow = half // 2
    for li in (1, 2):
        a = m.model.layers[li].self_attn
        for k in range(nk):
            q0, k0 = k * g * hd, k * hd
            a.q_proj.weight[q0:q0 + hd] *= 0.02
            a.k_proj.weight[k0:k0 + hd] *= 0.02
            a.v_proj.weight[k0:k0 + hd].zero_()
            for j in range(2 * slow):
                src = k * hd + (li - 1) * 2 * slow + j
                if src > 62:
                    continue
                row = slow + j if j < slow else half + slow + (j - slow)
                a.q_proj.weight[q0 + row, 1 + src] = match
                a.k_proj.weight[k0 + row, 64 + src] = match
            for j in range(hd if k == 0 else hd - 1):
                a.v_proj.weight[k0 + j, 1 + k * hd + j] = 1
                a.o_proj.weight[1 + k * hd + j, q0 + j] = content * gain
