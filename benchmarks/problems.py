"""What the steps are measured on: every size in one place, and the tensors and groups of those sizes."""

import torch

import fastsched as fs

SCHEDULE = fs.Cosine(steps=10_000).warmup(100, start=0.1)
DECAY = fs.Cosine(1.0, 0.1, steps=10_000)  # of the weight decay, where that is scheduled
LARGE = 26_000_000  # elements; four float32 arrays of them are 416 MB and fit no cache
MANY, FEW = 10_000, 100  # groups, where their number is what matters; few where nothing is timed

# name: tensors, elements of each, groups, calls in a row, rounds
EQUAL = {
    "400 x 256 in 400 groups": (400, 256, 400, 20, 30),
    "384 x 256 in 48 groups": (384, 256, 48, 20, 30),
    "400 x 256 in 1 group": (400, 256, 1, 20, 30),
    "400 x 65,536 in 200 groups": (400, 65_536, 200, 1, 15),
    "1 x 26,000,000 in 1 group": (1, LARGE, 1, 1, 25),
}
MANY_GROUPS = ("400 x 256 in 400 groups", "384 x 256 in 48 groups")

# where one number varies: groups of so many equal tensors, and elements of one tensor
TENSORS, ELEMENTS = 1000, 256
GROUP_COUNTS = (1, 4, 10, 40, 100, 400, 1000)
SIZES = [round(10 ** (k / 2)) for k in range(17)]
WIDTHS = (1, 10, 100, 500, 1000, 2000)  # groups of a table
DISTINCT, EACH = 48, 8  # groups of distinct numbers, and tensors in each, for merging

# name: tensors, elements of each
ALONE = {
    "1 x 26,000,000": (1, LARGE),
    "400 x 65,000": (400, LARGE // 400),
}

# name: width of the vision transformer, calls in a row, rounds; the narrow one wherever nothing is timed
NARROW = 64
VITS = {
    "ViT-B, 86.6 M": (768, 1, 20),
    "ViT of width 64, 0.7 M": (NARROW, 10, 40),
}
MIDDLE = 192  # ViT-Ti's width: 5.7 M

# Bytes for each float32 element that AdamW cannot avoid: parameter and both averages read and written, gradient read
ADAMW_BYTES = 28


def equal(tensors, elements):
    """Shapes of `tensors` vectors."""
    return [(elements,)] * tensors


def vit(width, depth=12, patch=16, image=224, classes=1000):
    """Shapes of a vision transformer's parameters: 152 at depth 12."""
    norm = [(width,), (width,)]
    attention = [(3 * width, width), (3 * width,), (width, width), (width,)]
    perceptron = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    tokens = (image // patch) ** 2 + 1
    stem = [(1, 1, width), (1, tokens, width), (width, 3, patch, patch), (width,)]
    return [*stem, *[*norm, *attention, *norm, *perceptron] * depth, *norm, (classes, width), (classes,)]


def build(shapes, groups, *, lr=1e-3, dtype=torch.float32):
    """Parameters and their groups, with distinct learning rates and with gradients; the same values at every call."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    size = len(params) // groups
    return params, [
        {"params": params[i * size : (i + 1) * size], "lr": lr * 0.99**i, "weight_decay": 0.05 * (i % 2)}
        for i in range(groups)
    ]


def assert_same(mine, theirs, updates=1):
    """The weights of both agree after so many updates, within some roundings of their dtype."""
    mine, theirs = ([p.detach() for p in params] for params in (mine, theirs))
    # float32: an update is at most 1e-3, and what is left is the rounding of weights of a few units
    rounding = updates * 2 * torch.finfo(mine[0].dtype).eps
    torch.testing.assert_close(mine, theirs, rtol=rounding, atol=rounding)


def two_updates(mine, theirs):
    """Two updates of both sides, which zero their gradients; returns the gradients of the first."""
    grads = [p.grad.clone() for p in mine.params]
    for side in (mine, theirs):
        side.step()
        assert not any(p.grad.any() for p in side.params)
        # half the gradients: after clipping they are the first ones again, without it the moments would tell
        for p, grad in zip(side.params, grads, strict=True):
            torch.mul(grad, 0.5, out=p.grad)
        side.step()
    assert_same(mine.params, theirs.params, updates=2)
    return grads
