"""Layer-wise groups: timm's recorded scales, the structure search, and what is refused."""

import copy
import json
import pickle
import re
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


def as_recorded(case, model, **kwargs):
    """What timm recorded for a case, and what `layerwise` makes of the model, both as layouts."""
    given = case["kwargs"]
    groups = fs.layerwise(
        model,
        1.0,
        decay=given["layer_decay"],
        weight_decay=given["weight_decay"],
        min_scale=given.get("min_scale", 0.0),
        no_weight_decay=given.get("no_weight_decay_list"),
        **kwargs,
    )
    expected = [(g["lr_scale"], g["weight_decay"], sorted(g["param_names"])) for g in case["groups"]]
    return sorted(expected), layout(groups, model)


VIT = {
    "stem": r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre",
    "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
}
RESNET = {"stem": r"^conv1|bn1|maxpool", "blocks": r"^layer(\d+)\.(\d+)"}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_scales_and_decay_split_are_timms(case):
    expected, made = as_recorded(case, rebuild(case["parameters"]))
    assert made == expected


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_scales_by_the_models_group_matcher_are_timms(case):
    model = rebuild(case["parameters"])
    model.group_matcher = lambda coarse: RESNET if case["model"].startswith("resnet") else VIT
    expected, made = as_recorded(case, model)
    assert made == expected


def test_layers_reproduces_timms_grouping_by_order():
    # What timm does without a group_matcher: twelve tensors a layer, in order, and the head on top.
    model = Vit(depth=4)
    order = [name for name, _ in model.named_parameters()]
    trunk = -(-(len(order) - 2) // 12)
    layers = {name: trunk if name.startswith("head") else k // 12 for k, name in enumerate(order)}
    scale = scales(model, decay=0.5, layers=layers.__getitem__)
    assert scale == {name: 0.5 ** (trunk - layer) for name, layer in layers.items()}


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


def test_experts_beside_the_blocks_are_no_stack_even_if_they_have_blocks():
    expert = lambda: nn.ModuleDict({"layers": nn.ModuleList(Block() for _ in range(3))})  # noqa: E731
    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(2))
    model.experts = nn.ModuleList(expert() for _ in range(4))
    scale = scales(model, decay=0.5)
    assert {scale[f"experts.{e}.layers.{k}.norm.weight"] for e in range(4) for k in range(3)} == {1.0}
    assert scale["layers.0.norm.weight"] == 0.25


def test_a_block_that_holds_blocks_is_one_layer_unless_all_do():
    model = nn.ModuleDict({"layers": nn.ModuleList(Block() for _ in range(3)), "head": nn.Linear(4, 2)})
    model["layers"][1].layers = nn.ModuleList(Block() for _ in range(2))
    scale = scales(model, decay=0.5)
    assert [scale[f"layers.{k}.norm.weight"] for k in range(3)] == [0.125, 0.25, 0.5]
    assert scale["layers.1.layers.0.norm.weight"] == scale["layers.1.layers.1.norm.weight"] == 0.25


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
    assert lines[0].split() == ["group", "layer", "scale", "lr", "weight", "decay", "tensors", "elements"]
    assert lines[1].split() == ["embeddings.decay", "0", "0.0625", "6.250e-05", "0.05", "2", "16"]
    assert lines[-1] == f"{len(groups)} groups, 25 tensors, 305 elements"
    assert "tensor(" not in text + repr(groups)


def test_printing_hundreds_of_groups_shows_the_first_the_last_and_the_sum_of_the_others():
    groups = fs.layerwise(Vit(depth=30), 1.0, per_parameter=True)
    lines = groups.summary().splitlines()
    assert len(lines) == 1 + 40 + 1 + 1
    shown = [g["name"] for g in groups[:20] + groups[-20:]]
    assert [line.split()[0] for line in lines[1:21] + lines[22:42]] == shown
    hidden = groups[20:-20]
    elements = sum(p.numel() for g in hidden for p in g["params"])
    assert lines[21] == f"... {len(hidden)} more groups, {len(hidden)} tensors, {elements:,} elements ..."


def test_a_small_scale_is_printed_with_its_exponent():
    assert fs.layerwise(Vit(depth=30), 1.0, decay=0.5).summary().splitlines()[1].split()[2] == "4.7e-10"  # 0.5**31


@pytest.mark.parametrize(("rows", "lines"), [(None, 187), (2, 3), (3, 4), (187, 187), (186, 187)])
def test_a_table_has_as_many_rows_as_asked_for(rows, lines):
    groups = fs.layerwise(Vit(depth=30), 1.0, per_parameter=True)
    assert len(groups) == 187
    assert len(groups.summary(rows=rows).splitlines()) == 2 + lines


@pytest.mark.parametrize(("rows", "error"), [(1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_table_of_no_sensible_length_is_refused(rows, error):
    with pytest.raises(error, match=r"^summary: rows must be"):
        fs.layerwise(Vit(), 1.0).summary(rows=rows)


def test_printing_works_at_lr_zero_and_when_empty():
    assert fs.layerwise(Vit(), 0).summary().splitlines()[1].split()[2] == "-"
    groups = fs.layerwise(Vit(), 1.0)
    groups.clear()
    assert groups.summary().endswith("0 groups, 0 tensors, 0 elements")


def test_a_group_that_was_added_by_hand_is_printed():
    groups = fs.layerwise(Vit(), 1.0)
    groups.append({"name": "mine", "params": [], "lr": 0.5, "weight_decay": 0.0})
    assert groups.summary().splitlines()[-2].split() == ["mine", "-", "0.5000", "5.000e-01", "0", "0", "0"]


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
        ({"freeze_below": 1.5}, ValueError, "freeze_below must be between 0 and 1, got 1.5"),
        ({"layers": 3}, TypeError, "layers must be a mapping or a function, got int"),
        ({"layers": {"": 1.5}}, TypeError, "layers must give ints, got float for cls_token"),
        ({"layers": lambda name: True}, TypeError, "layers must give ints, got bool for cls_token"),
        ({"layers": lambda name: -1}, ValueError, "layers must give numbers >= 0, got -1 for cls_token"),
        ({"layers": {3: 1}}, TypeError, "layers must have paths as keys, got int"),
        (
            {"layers": {"": 0, "block": 1}},
            ValueError,
            "layers must have paths in the model, got 'block', not among cls",
        ),
        ({"overrides": ["*.bias"]}, TypeError, "overrides must be a mapping of patterns, got list"),
        ({"overrides": {3: {"lr": 0.1}}}, TypeError, "globs or compiled regular expressions as keys, got int"),
        (
            {"overrides": {re.compile(b"x"): {"lr": 0.1}}},
            TypeError,
            "compiled regular expressions as keys, got Pattern",
        ),
        ({"overrides": {"*.bias": 0.1}}, TypeError, r"overrides\['\*.bias'\] must be a mapping, got float"),
        ({"overrides": {"*.bias": {}}}, ValueError, "must set lr, weight_decay or both, got none"),
        ({"overrides": {"*.bias": {"momentum": 0.9}}}, ValueError, "lr, weight_decay or both, got 'momentum'"),
        ({"overrides": {"*.bias": {"lr": -1.0}}}, ValueError, r"overrides\['\*.bias'\]\['lr'\] must be >= 0 and"),
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
    with pytest.raises(ValueError, match=r"part0.weight, .*part3.bias, ... \(4 more\); put the blocks .* layers="):
        fs.layerwise(model, 0.1)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="must have a parameter that trains, got none"):
        fs.layerwise(Vit().requires_grad_(False), 0.1)


class OtherBlock(Block):
    pass


def two_lists(first, second):
    model = nn.Module()
    model.one = nn.Module()
    model.one.blocks = nn.ModuleList(first() for _ in range(2))
    model.two = nn.Module()
    model.two.blocks = nn.ModuleList(second() for _ in range(3))
    return model


def test_two_different_stacks_are_refused_with_the_names_that_have_no_layer():
    unknown = r"one\.blocks\.0\.norm\.weight, one\.blocks\.0\.norm\.bias, .* more\); pass layers="
    with pytest.raises(ValueError, match=rf"found two\.blocks and one\.blocks, .*{unknown}"):
        fs.layerwise(two_lists(Block, OtherBlock), 0.1)


def test_two_stacks_of_one_class_in_different_modules_count_from_their_own_tops():
    scale = scales(two_lists(Block, Block), decay=0.5)
    assert [scale[f"one.blocks.{k}.norm.weight"] for k in range(2)] == [0.5, 1.0]
    assert [scale[f"two.blocks.{k}.norm.weight"] for k in range(3)] == [0.25, 0.5, 1.0]


def test_embeddings_of_a_stack_are_below_it_and_shared_ones_below_the_deeper_stack():
    model = nn.Module()
    model.shared_embedding = nn.Embedding(3, 4)
    for side, depth in (("encoder", 2), ("decoder", 3)):
        module = nn.Module()
        module.pos_embed = nn.Parameter(torch.zeros(1, 4))
        module.layers = nn.ModuleList((Block if side == "encoder" else OtherBlock)() for _ in range(depth))
        model.add_module(side, module)
    model.head = nn.Linear(4, 2)
    groups = {g["name"]: g["lr"] for g in fs.layerwise(model, 1.0, decay=0.5) if g["weight_decay"]}
    assert groups == {
        "embeddings.decay": 0.5**4,
        "encoder.embeddings.decay": 0.5**3,
        "encoder.layers.0.decay": 0.5**2,
        "encoder.layers.1.decay": 0.5,
        "decoder.embeddings.decay": 0.5**4,
        "decoder.layers.0.decay": 0.5**3,
        "decoder.layers.1.decay": 0.5**2,
        "decoder.layers.2.decay": 0.5,
        "head.decay": 1.0,
    }


def test_a_few_blocks_of_another_class_after_the_others_count_on():
    model = nn.Module()
    model.blocks = nn.ModuleList(Block() for _ in range(5))
    model.blocks_token_only = nn.ModuleList(OtherBlock() for _ in range(2))
    model.head = nn.Linear(4, 2)
    scale = scales(model, decay=0.5)
    assert scale["blocks.0.norm.weight"] == 0.5**7
    assert [scale[f"blocks_token_only.{k}.norm.weight"] for k in range(2)] == [0.25, 0.5]


def test_a_sequential_of_layers_of_every_kind_counts_each_and_norms_with_the_layer_before():
    model = nn.Sequential(
        nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2)
    )
    scale = scales(model, decay=0.5)
    assert [scale[f"{k}.weight"] for k in (0, 1, 4, 5)] == [0.25, 0.25, 0.5, 1.0]


def test_a_sequential_around_blocks_has_its_first_layer_deepest_and_its_last_at_scale_one():
    model = nn.Sequential(nn.Linear(3, 4), Block(), Block(), nn.LayerNorm(4), nn.Linear(4, 2))
    scale = scales(model, decay=0.5)
    assert [scale[name] for name in ("0.weight", "1.norm.weight", "2.norm.weight", "3.weight", "4.weight")] == [
        0.125, 0.25, 0.5, 0.5, 1.0,
    ]  # fmt: skip


def test_a_sequential_whose_blocks_are_few_counts_every_layer():
    scale = scales(nn.Sequential(nn.Linear(3, 4), Block(), nn.Linear(4, 4), nn.Linear(4, 2)), decay=0.5)
    assert [scale[name] for name in ("0.weight", "1.mlp.0.weight", "2.weight", "3.weight")] == [0.125, 0.25, 0.5, 1.0]


def test_an_encoder_and_a_decoder_of_plain_layers_count_from_their_own_tops():
    layers = lambda count: nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))  # noqa: E731
    scale = scales(nn.ModuleDict({"encoder": layers(2), "decoder": layers(3)}), decay=0.5)
    assert [scale[f"encoder.{k}.weight"] for k in range(2)] == [0.5, 1.0]
    assert [scale[f"decoder.{k}.weight"] for k in range(3)] == [0.25, 0.5, 1.0]


def test_plain_layers_in_unrelated_modules_are_refused():
    model = nn.ModuleDict({name: nn.ModuleDict({"mlp": Block().mlp}) for name in ("first", "second")})
    with pytest.raises(ValueError, match=r"found first\.mlp and second\.mlp"):
        fs.layerwise(model, 1.0)


def test_a_head_in_the_middle_of_the_model_has_scale_one():
    model = nn.Module()
    model.patch_embed = nn.Linear(3, 4)
    model.head = nn.Linear(4, 2)
    model.blocks = nn.ModuleList(Block() for _ in range(2))
    scale = scales(model, decay=0.5)
    assert (scale["patch_embed.weight"], scale["head.weight"], scale["blocks.1.norm.weight"]) == (0.125, 1.0, 0.5)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["dp", "compile"])
def test_wrappers_change_neither_scales_nor_group_names(wrap):
    model = Vit()
    plain, wrapped = fs.layerwise(model, 1.0), fs.layerwise(wrap(model), 1.0)
    assert list(wrapped) == list(plain)


def test_blocks_compiled_one_by_one_keep_their_names():
    model = Vit()
    names = [g["name"] for g in fs.layerwise(model, 1.0, per_parameter=True)]
    for k, block in enumerate(model.blocks):
        model.blocks[k] = torch.compile(block, backend="eager")
    assert [g["name"] for g in fs.layerwise(model, 1.0, per_parameter=True)] == names
    assert "blocks.1.decay" in {g["name"] for g in fs.layerwise(model, 1.0)}


def test_layers_may_be_paths_and_the_longest_counts():
    layers = {"": 0, "blocks": 1, "blocks.2": 2, "norm": 2, "head": 3, "head.bias": 2}
    scale = scales(Vit(), decay=0.5, layers=layers)
    expected = {"cls_token": 0, "blocks.0.norm.bias": 1, "blocks.2.norm.bias": 2, "norm.weight": 2, "head.weight": 3}
    assert {name: scale[name] for name in expected} == {name: 0.5 ** (3 - k) for name, k in expected.items()}
    assert scale["head.bias"] == 0.5


def test_layers_is_the_way_out_where_structure_does_not_tell():
    model = two_lists(Block, OtherBlock)
    scale = scales(model, decay=0.5, layers=lambda name: ("one", "two").index(name.partition(".")[0]))
    assert (scale["one.blocks.0.norm.weight"], scale["two.blocks.2.norm.weight"]) == (0.5, 1.0)


def test_names_that_layers_gives_no_number_are_listed():
    with pytest.raises(
        ValueError, match=r"every parameter a number, got none for cls_token, norm.weight, norm.bias; add"
    ):
        fs.layerwise(Vit(), 1.0, layers={"patch_embed": 0, "blocks": 1, "head": 2})


def test_freezing_below_a_scale_freezes_those_layers_in_the_model_and_leaves_them_out():
    model = Vit()
    groups = fs.layerwise(model, 1.0, decay=0.5, freeze_below=0.25)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    deep = ("cls_token", "patch_embed", "blocks.0")  # 0.5**4 and 0.5**3; blocks.1, at 0.25 itself, trains
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(deep)}
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters() if p.requires_grad}
    assert min(g["lr"] for g in groups) == 0.25


def test_freezing_leaves_the_other_scales_as_they_are():
    whole = scales(Vit(), decay=0.5)
    left = scales(Vit(), decay=0.5, freeze_below=0.25)
    assert left == {name: scale for name, scale in whole.items() if scale >= 0.25}


def test_no_layer_is_frozen_whose_scale_min_scale_raises():
    model = Vit()
    fs.layerwise(model, 1.0, decay=0.5, min_scale=0.3, freeze_below=0.3)
    assert all(p.requires_grad for p in model.parameters())


def test_a_refused_call_freezes_nothing():
    model = Vit()
    with pytest.raises(ValueError, match="matches none"):
        fs.layerwise(model, 1.0, freeze_below=0.9, overrides={"nothing": {"lr": 0.1}})
    model.head.requires_grad_(False)
    with pytest.raises(ValueError, match="is left by freeze_below; lower it"):
        fs.layerwise(model, 1.0, freeze_below=1.0)
    assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("head"))


def test_overrides_set_lr_and_weight_decay_of_what_they_match():
    model = Vit()
    groups = fs.layerwise(model, 1.0, decay=0.5, overrides={"*.bias": {"lr": 0.3}, "head.*": {"weight_decay": 0.2}})
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert given["blocks.0.norm.bias"] == given["patch_embed.bias"] == (0.3, 0.0)
    assert given["head.weight"] == (1.0, 0.2)
    assert given["head.bias"] == (0.3, 0.2)
    assert given["blocks.0.norm.weight"] == (0.125, 0.0)
    assert len(given) == len(names)


def test_overridden_groups_are_named_after_the_patterns():
    groups = fs.layerwise(Vit(), 1.0, overrides={"head.*": {"lr": 0.3}, "*.bias": {"lr": 0.2}})
    names = [g["name"] for g in groups]
    assert "head.decay[head.*]" in names
    assert "head.no_decay[head.*, *.bias]" in names
    assert "norm.no_decay" not in names
    assert len(set(names)) == len(names)


def test_later_overrides_win():
    overrides = {"*": {"lr": 0.3, "weight_decay": 0.1}, "head.weight": {"lr": 0.2}}
    groups = fs.layerwise(Vit(), 1.0, per_parameter=True, overrides=overrides)
    given = {g["name"]: (g["lr"], g["weight_decay"]) for g in groups}
    assert given.pop("head.weight") == (0.2, 0.1)
    assert set(given.values()) == {(0.3, 0.1)}


def test_overrides_may_be_regular_expressions_for_the_whole_name():
    overrides = {re.compile(r"blocks\.[02]\.norm"): {"lr": 9.0}}
    with pytest.raises(ValueError, match=r"got 'blocks.*norm', which matches none of cls_token, .*more\)"):
        fs.layerwise(Vit(), 1.0, overrides=overrides)
    overrides = {re.compile(r"blocks\.[02]\.norm\..*"): {"lr": 9.0}}
    scale = scales(Vit(), overrides=overrides)
    assert {name for name, lr in scale.items() if lr == 9.0} == {
        f"blocks.{k}.norm.{part}" for k in (0, 2) for part in ("weight", "bias")
    }


def test_a_tied_parameter_may_be_overridden_by_either_name():
    model = nn.Module()
    model.wte = nn.Embedding(7, 4)
    model.h = nn.ModuleList(Block() for _ in range(2))
    model.lm_head = nn.Linear(4, 7, bias=False)
    model.lm_head.weight = model.wte.weight
    for pattern in ("wte.*", "lm_head.*"):
        assert scales(model, overrides={pattern: {"lr": 0.5}})["wte.weight"] == 0.5


def test_merging_joins_groups_of_the_same_lr_and_weight_decay():
    model = Vit()
    apart = fs.layerwise(model, 1.0, decay=0.5, min_scale=0.25)
    merged = fs.layerwise(model, 1.0, decay=0.5, min_scale=0.25, merge=True)
    values = [(g["lr"], g["weight_decay"]) for g in merged]
    assert len(set(values)) == len(values) < len(apart)
    assert set(values) == {(g["lr"], g["weight_decay"]) for g in apart}
    assert sorted(id(p) for g in merged for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert all(list(g) == ["name", "params", "lr", "weight_decay"] for g in merged)


def test_a_merged_group_has_its_first_ones_name_and_the_range_of_their_layers():
    merged = fs.layerwise(Vit(), 1.0, decay=0.5, min_scale=0.25, merge=True)
    first = merged.summary().splitlines()[1]
    assert merged[0]["name"] == "embeddings.decay + 2 more"
    assert first.removeprefix(merged[0]["name"]).split()[0] == "0-2"


def test_merging_leaves_groups_that_differ_as_they_are():
    model = Vit()
    assert list(fs.layerwise(model, 1.0, decay=0.5, merge=True)) == list(fs.layerwise(model, 1.0, decay=0.5))
