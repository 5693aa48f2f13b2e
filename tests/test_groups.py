"""Layer-wise groups: timm's recorded scales, the structure search, and what is refused."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import fastsched as fs

GOLDEN = json.loads((Path(__file__).parent / "data" / "layer_decay.json").read_text())["cases"]


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Vit(nn.Module):
    def __init__(self, depth=3, width=4):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)


class Wrapped(nn.Module):
    """The prefixes of a Hugging Face model: `vit.encoder.layer.3.`."""

    def __init__(self, depth=4):
        super().__init__()
        self.vit = nn.Module()
        self.vit.embeddings = nn.Module()
        self.vit.embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 2, 4))
        self.vit.encoder = nn.Module()
        self.vit.encoder.layer = nn.ModuleList(Block() for _ in range(depth))
        self.vit.layernorm = nn.LayerNorm(4)
        self.classifier = nn.Linear(4, 2)


class Layer(nn.Module):
    pass


class Norm(nn.Module):
    pass


def rebuild(parameters):
    """A model with the recorded names and shapes: numbered children become a list, a 1-d weight a norm."""
    tree = {}
    for name, shape in parameters:
        node = tree
        *path, last = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = nn.Parameter(torch.empty(shape))

    def module(node):
        if all(name.isdigit() for name in node):
            return fill(nn.Sequential(), node)
        made = Norm() if "weight" in node and node["weight"].ndim == 1 else Layer()
        return fill(made, node)

    def fill(made, node):
        for name, child in node.items():
            if isinstance(child, nn.Parameter):
                made.register_parameter(name, child)
            else:
                made.add_module(name, module(child))
        return made

    return fill(nn.Module(), tree)


def layout(groups, model):
    """Each group as (lr, weight decay, names of its parameters), in a fixed order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return sorted((g["lr"], g["weight_decay"], sorted(names[p] for p in g["params"])) for g in groups)


def scales(model, **kwargs):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: g["lr"] for g in fs.layerwise(model, 1.0, **kwargs) for p in g["params"]}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_scales_and_decay_split_are_timms(case):
    model = rebuild(case["parameters"])
    kwargs = case["kwargs"]
    groups = fs.layerwise(
        model,
        1.0,
        decay=kwargs["layer_decay"],
        weight_decay=kwargs["weight_decay"],
        min_scale=kwargs.get("min_scale", 0.0),
        no_weight_decay=kwargs.get("no_weight_decay_list"),
    )
    expected = [(g["lr_scale"], g["weight_decay"], sorted(g["param_names"])) for g in case["groups"]]
    assert layout(groups, model) == sorted(expected)


@pytest.mark.parametrize("model", [Vit(), Wrapped()], ids=["vit", "wrapped"])
@pytest.mark.parametrize("per_parameter", [False, True])
def test_every_trainable_parameter_is_in_one_group(model, per_parameter):
    groups = fs.layerwise(model, 1e-3, per_parameter=per_parameter)
    held = [id(p) for g in groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert all(list(g) == ["name", "params", "lr", "weight_decay"] for g in groups)
    assert len({g["name"] for g in groups}) == len(groups)


def test_per_parameter_groups_are_named_after_their_tensor_and_scaled_alike():
    model = Vit()
    groups = fs.layerwise(model, 1.0, per_parameter=True)
    assert [g["name"] for g in groups] == [name for name, _ in model.named_parameters()]
    assert {g["name"]: g["lr"] for g in groups} == scales(model)


def test_group_names_are_the_models_own_paths():
    names = [g["name"] for g in fs.layerwise(Wrapped(1 + 1), 1.0)]
    assert names == [
        "embeddings.decay",
        "vit.encoder.layer.0.no_decay",
        "vit.encoder.layer.0.decay",
        "vit.encoder.layer.1.no_decay",
        "vit.encoder.layer.1.decay",
        "head.decay",
        "head.no_decay",
    ]


def test_lr_falls_from_the_head_to_the_embeddings_through_nested_prefixes():
    scale = scales(Wrapped(4), decay=0.5)
    assert scale["classifier.weight"] == 1.0
    assert scale["vit.layernorm.weight"] == scale["vit.encoder.layer.3.norm.weight"] == 0.5
    assert scale["vit.encoder.layer.0.mlp.0.weight"] == 0.5**4
    assert scale["vit.embeddings.position_embeddings"] == 0.5**5


def test_names_outweigh_the_order_of_registration():
    model = nn.Module()
    model.head = nn.Linear(4, 2)
    model.blocks = nn.ModuleList(Block() for _ in range(2))
    model.pos_embed = nn.Embedding(3, 4)
    scale = scales(model, decay=0.5)
    assert scale["head.weight"] == 1.0
    assert scale["pos_embed.weight"] == 0.5**3


def test_a_wrapper_named_like_a_head_does_not_make_everything_a_head():
    outer = nn.Module()
    outer.classifier = Vit(2)
    assert scales(outer, decay=0.5)["classifier.patch_embed.weight"] == 0.5**3


def test_without_a_head_the_last_block_has_scale_one():
    model = nn.ModuleDict({"layers": nn.ModuleList(Block() for _ in range(3))})
    assert scales(model, decay=0.5)["layers.2.norm.weight"] == 1.0


def test_stages_of_one_class_count_on():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Sequential(Block(), Block()),
        nn.Sequential(Block(), Block(), Block()),
        nn.Linear(4, 2),
    )
    scale = scales(model, decay=0.5)
    assert [scale[f"{path}.norm.weight"] for path in ("1.0", "1.1", "2.0", "2.1", "2.2")] == [
        0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5,
    ]  # fmt: skip


def test_parallel_experts_inside_a_block_are_no_layers():
    def block():
        made = Block()
        made.experts = nn.ModuleList(Block() for _ in range(8))
        return made

    model = nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(2)), "head": nn.Linear(4, 2)})
    scale = scales(model, decay=0.5)
    assert scale["layers.0.experts.7.norm.weight"] == scale["layers.0.norm.weight"] == 0.25


def test_a_plain_stack_of_linears_is_a_block_list():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    scale = scales(model, decay=0.5)
    assert [scale[f"{i}.weight"] for i in (0, 2, 4)] == [0.25, 0.5, 1.0]


def test_biases_norms_and_vectors_do_not_decay():
    model = Vit()
    model.norm = nn.LayerNorm((2, 2))  # a norm whose weight is no vector
    names = {parameter: name for name, parameter in model.named_parameters()}
    spared = {names[p] for g in fs.layerwise(model, 1.0) if g["weight_decay"] == 0.0 for p in g["params"]}
    assert spared == {name for name in names.values() if name.endswith("bias") or "norm" in name}


def test_no_weight_decay_is_asked_of_the_model_unless_it_is_given():
    model = Vit()
    model.no_weight_decay = lambda: {"cls_token"}
    decays = lambda groups: {g["name"]: g["weight_decay"] > 0.0 for g in groups}  # noqa: E731
    assert not decays(fs.layerwise(model, 1.0, per_parameter=True))["cls_token"]
    given = decays(fs.layerwise(model, 1.0, per_parameter=True, no_weight_decay=["patch_embed.weight"]))
    assert given["cls_token"]
    assert not given["patch_embed.weight"]


def test_no_weight_decay_takes_the_end_of_a_nested_name():
    outer = nn.ModuleDict({"vit": Vit()})
    groups = fs.layerwise(outer, 1.0, per_parameter=True, no_weight_decay=["cls_token", "token"])
    assert {g["name"]: g["weight_decay"] for g in groups}["vit.cls_token"] == 0.0


def test_frozen_parameters_are_left_out_and_change_no_scale():
    model = Vit()
    before = scales(model)
    model.head.requires_grad_(False)
    after = scales(model)
    assert after == {name: scale for name, scale in before.items() if not name.startswith("head")}


def test_a_tied_parameter_appears_once_under_its_first_name():
    model = nn.Module()
    model.wte = nn.Embedding(7, 4)
    model.h = nn.ModuleList(Block() for _ in range(2))
    model.lm_head = nn.Linear(4, 7, bias=False)
    model.lm_head.weight = model.wte.weight
    groups = fs.layerwise(model, 1.0, decay=0.5)
    holders = [g for g in groups if any(p is model.wte.weight for p in g["params"])]
    assert [g["name"] for g in holders] == ["embeddings.decay"]


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adam", "RMSprop", "Adagrad"])
def test_torch_optimizers_take_the_list_as_it_stands(name):
    model = Vit()
    optimizer = getattr(torch.optim, name)(fs.layerwise(model, 0.1))
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in fs.layerwise(model, 0.1)]


def test_printing_shows_every_group_and_no_tensor():
    groups = fs.layerwise(Vit(), 1e-3, decay=0.5)
    text = str(groups)
    assert text == groups.summary()
    assert all(g["name"] in text for g in groups)
    lines = text.splitlines()
    assert lines[0].split() == ["group", "tensors", "parameters", "scale", "lr", "weight", "decay"]
    assert lines[-1] == f"{len(groups)} groups, 25 tensors, 305 parameters"
    assert "tensor(" not in text + repr(groups)
    assert "0.0625" in text


def test_printing_works_at_lr_zero_and_when_empty():
    assert "-" in fs.layerwise(Vit(), 0).summary()
    groups = fs.layerwise(Vit(), 1.0)
    groups.clear()
    assert groups.summary().endswith("0 groups, 0 tensors, 0 parameters")


def test_groups_survive_copy_and_pickle():
    groups = fs.layerwise(Vit(), 1e-3)
    for twin in (copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert twin.summary() == groups.summary()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"lr": True}, TypeError, "lr must be a number, got bool"),
        ({"lr": "1e-3"}, TypeError, "lr must be a number, got str"),
        ({"lr": -1.0}, ValueError, "lr must be >= 0 and finite, got -1.0"),
        ({"lr": float("nan")}, ValueError, "lr must be >= 0 and finite, got nan"),
        ({"lr": float("inf")}, ValueError, "lr must be >= 0 and finite, got inf"),
        ({"lr": torch.tensor([0.25])}, TypeError, "lr must be a number, got Tensor"),
        ({"decay": 0}, ValueError, r"decay must be in \(0, 1\], got 0.0"),
        ({"decay": 1.5}, ValueError, "decay must be between 0 and 1, got 1.5"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be >= 0 and finite"),
        ({"min_scale": 2}, ValueError, "min_scale must be between 0 and 1, got 2.0"),
        ({"no_weight_decay": "bias"}, TypeError, "put a single name into a list"),
        ({"no_weight_decay": [3]}, TypeError, "must hold names, got int"),
        ({"model": [nn.Linear(1, 1)]}, TypeError, "model must be a torch.nn.Module, got list"),
    ],
)
def test_arguments_are_checked_at_the_door(kwargs, error, message):
    arguments = {"model": Vit(), "lr": 0.1} | kwargs
    with pytest.raises(error, match=f"^layerwise: .*{message}"):
        fs.layerwise(arguments.pop("model"), arguments.pop("lr"), **arguments)


def test_a_model_without_a_block_list_is_refused_with_its_names():
    model = nn.Module()
    for index in range(6):
        setattr(model, f"part{index}", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"part0.weight, .*part3.bias, ... \(4 more\); put the blocks"):
        fs.layerwise(model, 0.1)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="must have a parameter that trains, got none"):
        fs.layerwise(Vit().requires_grad_(False), 0.1)


def test_two_different_stacks_are_refused_because_structure_does_not_tell_which_is_deeper():
    with pytest.raises(ValueError, match=r"one stack of blocks, found decoder\.layers and encoder\.layers"):
        fs.layerwise(nn.Transformer(4, 2, 2, 3, 8, batch_first=True), 0.1)
