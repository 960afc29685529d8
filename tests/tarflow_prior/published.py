"""TarFlow once more by its published names: weights of its layout, and its algorithm."""

import torch
import torch.nn.functional as F

TOKENS, DIM, WIDTH, HEAD_DIM = 5, 3, 8, 4


def weights_of(depths, num_classes=0, dtype=torch.float64, shape=(TOKENS, DIM, WIDTH), mlp_ratio=4):
    """Draw all weights of the published layout, by the published names."""
    tokens, dim, width = shape
    hidden = mlp_ratio * width
    weights = {"var": torch.ones(tokens, dim, dtype=dtype)}

    def draw(name, *shape):
        weights[name] = torch.randn(shape, dtype=dtype) * (0.1 if "proj_out" in name else 0.3)

    def linear(name, inputs, outputs):
        draw(f"{name}.weight", outputs, inputs)
        draw(f"{name}.bias", outputs)

    for block, depth in enumerate(depths):
        at = f"blocks.{block}"
        weights[f"{at}.attn_mask"] = torch.ones(tokens, tokens).tril()
        draw(f"{at}.pos_embed", tokens, width)
        if num_classes:
            draw(f"{at}.class_embed", num_classes, 1, width)
        linear(f"{at}.proj_in", dim, width)
        linear(f"{at}.proj_out", width, 2 * dim)
        for layer in range(depth):
            inner = f"{at}.attn_blocks.{layer}"
            linear(f"{inner}.attention.qkv", width, 3 * width)
            linear(f"{inner}.attention.proj", width, width)
            linear(f"{inner}.mlp.main.0", width, hidden)
            linear(f"{inner}.mlp.main.2", hidden, width)
            for norm in ("attention", "mlp"):
                draw(f"{inner}.{norm}.norm.weight", width)
                draw(f"{inner}.{norm}.norm.bias", width)
    return weights


def save_readme_weights(folder):
    """Write the file of the README, one narrow layer in place of its 64."""
    weights = weights_of((1,), num_classes=10, dtype=torch.float32, shape=(256, 48, 64))
    for name in ("weight", "bias"):
        weights[f"blocks.0.proj_out.{name}"] /= 100  # samples of large ones overflow
    torch.save(weights, folder / "imagenet_model_4_1024_8_8_0.05.pth")


class Published:
    """The published algorithm: every prefix anew, no cache."""

    def __init__(self, weights, depths):
        self.weights, self.depths = weights, depths

    def linear(self, name, h):
        return F.linear(h, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name, h):
        at = f"{name}.norm"
        return F.layer_norm(h, (WIDTH,), self.weights[f"{at}.weight"], self.weights[f"{at}.bias"])

    def next_affine(self, block, past, label, temperature=1):
        """Log-scale and shift of the token after ``past``, in decoding order; None is no class."""
        at = f"blocks.{block}"
        places = self.weights[f"{at}.pos_embed"]
        places = (places.flip(0) if block % 2 else places)[: past.shape[1]]
        h = self.linear(f"{at}.proj_in", past) + places
        classes = self.weights.get(f"{at}.class_embed")
        if classes is not None:
            h = h + (classes.mean(0) if label is None else classes[label])
        for layer in range(self.depths[block]):
            inner = f"{at}.attn_blocks.{layer}"
            h = h + self.attention(f"{inner}.attention", h, temperature)
            hidden = self.linear(f"{inner}.mlp.main.0", self.norm(f"{inner}.mlp", h))
            h = h + self.linear(f"{inner}.mlp.main.2", F.gelu(hidden))
        return self.linear(f"{at}.proj_out", h[:, -1]).chunk(2, dim=-1)

    def attention(self, name, h, temperature):
        shape = (*h.shape[:2], 3, WIDTH // HEAD_DIM, HEAD_DIM)
        qkv = self.linear(f"{name}.qkv", self.norm(name, h)).view(shape)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scale = HEAD_DIM**-0.5 / temperature
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        return self.linear(f"{name}.proj", out.transpose(1, 2).reshape(h.shape))

    def forward(self, z, label):
        log_det = 0
        for block in range(len(self.depths)):
            z = z.flip(1) if block % 2 else z
            u = [z[:, 0]]
            for t in range(1, TOKENS):
                log_scale, shift = self.next_affine(block, z[:, :t], label)
                u.append((z[:, t] - shift) * (-log_scale).exp())
                log_det = log_det - log_scale.sum(1)
            z = torch.stack(u, 1)
            z = z.flip(1) if block % 2 else z
        return z, log_det

    def reverse(self, u, label, guidance, temperature):
        for block in reversed(range(len(self.depths))):
            u = u.flip(1) if block % 2 else u
            z = u[:, :1]
            for t in range(1, TOKENS):
                affine = torch.stack(self.next_affine(block, z, label))
                null = torch.stack(self.next_affine(block, z, None, temperature))
                weight = guidance * t / (TOKENS - 1)  # "annealed"
                log_scale, shift = affine + weight * (affine - null)
                z = torch.cat([z, (u[:, t] * log_scale.exp() + shift)[:, None]], 1)
            u = z.flip(1) if block % 2 else z
        return u
