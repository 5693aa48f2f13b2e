"""Layer-wise scales of real architectures, tiny and untrained: how far each parameter is from the head."""

import re
from itertools import pairwise

import pytest
import torch
import transformers as tf
from torch import nn

import fastsched as fs

DECAY = 0.75  # scales are compared exactly: powers of it up to the 33rd fit into a float64
TEXT = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
IMAGE = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SEQ2SEQ = {
    "vocab_size": 30,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {"vocab_size": 30, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2}
OPT = {k: v for k, v in TEXT.items() if k != "intermediate_size"} | {"ffn_dim": 16, "word_embed_proj_dim": 8}
SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [2, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 8],
    "patch_sizes": [3, 3],
    "strides": [2, 2],
    "num_attention_heads": [1, 1],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 8,
}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 3], "num_heads": [2, 2], "window_size": 4}


def scales(model, **kwargs):
    """Every trainable parameter's scale, by its name; each must be in exactly one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    held = [(names[id(p)], g["lr"]) for g in fs.layerwise(model, 1.0, decay=DECAY, **kwargs) for p in g["params"]]
    assert sorted(name for name, _ in held) == sorted(names.values())
    return dict(held)


def distances(model, names):
    """How many layers each parameter is below the head: what its scale says."""
    scale = scales(model)
    powers = {DECAY**k: k for k in range(100)}
    return {name: powers[scale[name]] for name in names}


def bert():
    return tf.BertForSequenceClassification(tf.BertConfig(**TEXT))


# Of each model: a builder, and the distance from the head of its embeddings, first and last block, norms and head.
MODELS = {
    "BERT": (
        bert,
        {
            "bert.embeddings.word_embeddings.weight": 4,
            "bert.embeddings.position_embeddings.weight": 4,
            "bert.embeddings.LayerNorm.weight": 4,
            "bert.encoder.layer.0.attention.self.query.weight": 3,
            "bert.encoder.layer.2.output.LayerNorm.bias": 1,
            "bert.pooler.dense.weight": 0,
            "classifier.bias": 0,
        },
    ),
    "BERT that fills in words": (
        lambda: tf.BertForMaskedLM(tf.BertConfig(**TEXT)),
        {
            "bert.embeddings.word_embeddings.weight": 4,
            "bert.encoder.layer.0.output.dense.weight": 3,
            "bert.encoder.layer.2.output.dense.weight": 1,
            "cls.predictions.transform.LayerNorm.weight": 0,
            "cls.predictions.bias": 0,
        },
    ),
    "BERT of one block": (
        lambda: tf.BertForSequenceClassification(tf.BertConfig(**TEXT | {"num_hidden_layers": 1})),
        {
            "bert.embeddings.word_embeddings.weight": 2,
            "bert.encoder.layer.0.output.dense.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "RoBERTa": (
        lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**TEXT)),
        {
            "roberta.embeddings.word_embeddings.weight": 4,
            "roberta.encoder.layer.0.intermediate.dense.weight": 3,
            "roberta.encoder.layer.2.output.LayerNorm.weight": 1,
            "classifier.dense.weight": 0,
            "classifier.out_proj.weight": 0,
        },
    ),
    "DeBERTa": (
        lambda: tf.DebertaForSequenceClassification(
            tf.DebertaConfig(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"])
        ),
        {
            "deberta.embeddings.word_embeddings.weight": 4,
            "deberta.encoder.rel_embeddings.weight": 4,  # registered after the blocks
            "deberta.encoder.layer.0.attention.self.q_bias": 3,
            "deberta.encoder.layer.2.output.dense.weight": 1,
            "pooler.dense.weight": 0,
            "classifier.weight": 0,
        },
    ),
    "DeBERTa-v2": (
        lambda: tf.DebertaV2ForSequenceClassification(
            tf.DebertaV2Config(
                **TEXT,
                relative_attention=True,
                pos_att_type=["p2c", "c2p"],
                norm_rel_ebd="layer_norm",
                position_buckets=4,
                conv_kernel_size=3,
                conv_act="gelu",
            )
        ),
        {
            "deberta.encoder.rel_embeddings.weight": 4,
            "deberta.encoder.layer.0.attention.self.query_proj.weight": 3,
            "deberta.encoder.layer.2.attention.self.query_proj.weight": 1,
            "deberta.encoder.LayerNorm.weight": 1,
            "deberta.encoder.conv.conv.weight": 1,  # the encoder's own, so no head
            "deberta.encoder.conv.LayerNorm.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "DistilBERT": (
        lambda: tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(vocab_size=30, dim=8, n_layers=3, n_heads=2, hidden_dim=16, max_position_embeddings=8)
        ),
        {
            "distilbert.embeddings.word_embeddings.weight": 4,
            "distilbert.transformer.layer.0.ffn.lin1.weight": 3,
            "distilbert.transformer.layer.2.output_layer_norm.weight": 1,
            "pre_classifier.weight": 0,
            "classifier.weight": 0,
        },
    ),
    "MPNet, a position table among the encoder's parts": (
        lambda: tf.MPNetForSequenceClassification(tf.MPNetConfig(**TEXT)),
        {
            "mpnet.embeddings.word_embeddings.weight": 4,
            "mpnet.encoder.relative_attention_bias.weight": 4,
            "mpnet.encoder.layer.0.attention.attn.q.weight": 3,
            "mpnet.encoder.layer.2.attention.attn.q.weight": 1,
            "classifier.dense.weight": 0,
        },
    ),
    "ALBERT, one block that runs three times": (
        lambda: tf.AlbertForSequenceClassification(tf.AlbertConfig(**TEXT, embedding_size=4)),
        {
            "albert.embeddings.word_embeddings.weight": 2,
            "albert.encoder.embedding_hidden_mapping_in.weight": 2,
            "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight": 1,
            "albert.pooler.weight": 0,
            "classifier.weight": 0,
        },
    ),
    "ViT": (
        lambda: tf.ViTForImageClassification(tf.ViTConfig(**IMAGE)),
        {
            "vit.embeddings.cls_token": 4,
            "vit.embeddings.position_embeddings": 4,
            "vit.embeddings.patch_embeddings.projection.weight": 4,
            "vit.layers.0.layernorm_before.weight": 3,
            "vit.layers.2.mlp.fc1.weight": 1,
            "vit.layernorm.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "BEiT": (
        lambda: tf.BeitForImageClassification(tf.BeitConfig(**IMAGE, use_relative_position_bias=True)),
        {
            "beit.embeddings.cls_token": 4,
            "beit.layers.0.layernorm_before.weight": 3,
            "beit.layers.2.layernorm_after.weight": 1,
            "beit.pooler.layernorm.weight": 0,  # timm's fc_norm
            "classifier.weight": 0,
        },
    ),
    "Swin": (
        lambda: tf.SwinForImageClassification(tf.SwinConfig(**SWIN)),
        {
            "swin.embeddings.patch_embeddings.projection.weight": 6,
            "swin.embeddings.norm.weight": 6,
            "swin.encoder.layers.0.blocks.0.layernorm_before.weight": 5,
            "swin.encoder.layers.0.blocks.1.layernorm_before.weight": 4,
            "swin.encoder.layers.0.downsample.reduction.weight": 3,  # as in timm: with the block that follows
            "swin.encoder.layers.0.downsample.norm.weight": 3,
            "swin.encoder.layers.1.blocks.0.layernorm_before.weight": 3,
            "swin.encoder.layers.1.blocks.2.layernorm_before.weight": 1,
            "swin.layernorm.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "ResNet of transformers": (
        lambda: tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=4, hidden_sizes=[8, 8], depths=[1, 2], layer_type="basic")
        ),
        {
            "resnet.embedder.embedder.convolution.weight": 4,
            "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": 3,
            "resnet.encoder.stages.1.layers.0.layer.1.convolution.weight": 2,
            "resnet.encoder.stages.1.layers.1.layer.1.normalization.weight": 1,
            "classifier.1.weight": 0,
        },
    ),
    "ConvNeXt of transformers": (
        lambda: tf.ConvNextForImageClassification(tf.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 2], num_stages=2)),
        {
            "convnext.embeddings.patch_embeddings.weight": 4,
            "convnext.encoder.stages.0.layers.0.dwconv.weight": 3,
            "convnext.encoder.stages.1.downsampling_layer.0.weight": 2,
            "convnext.encoder.stages.1.downsampling_layer.1.weight": 2,
            "convnext.encoder.stages.1.layers.0.dwconv.weight": 2,
            "convnext.encoder.stages.1.layers.1.dwconv.weight": 1,
            "convnext.layernorm.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "SegFormer, a patch embedding in each stage": (
        lambda: tf.SegformerForImageClassification(tf.SegformerConfig(**SEGFORMER)),
        {
            "segformer.stages.0.patch_embeddings.proj.weight": 4,
            "segformer.stages.0.blocks.0.layernorm_before.weight": 3,
            "segformer.stages.0.blocks.1.layernorm_before.weight": 2,
            "segformer.stages.0.layer_norm.weight": 2,
            "segformer.stages.1.patch_embeddings.proj.weight": 1,
            "segformer.stages.1.blocks.0.layernorm_before.weight": 1,
            "segformer.stages.1.layer_norm.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "Llama": (
        lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**TEXT)),
        {
            "model.embed_tokens.weight": 4,
            "model.layers.0.self_attn.q_proj.weight": 3,
            "model.layers.2.mlp.down_proj.weight": 1,
            "model.norm.weight": 1,
            "lm_head.weight": 0,
        },
    ),
    "Mixtral, experts in each block": (
        lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=4)),
        {"model.embed_tokens.weight": 4, "model.layers.0.mlp.gate.weight": 3, "lm_head.weight": 0},
    ),
    "GPT-2, its head tied to the embeddings": (
        lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=30, n_embd=8, n_layer=3, n_head=2, n_positions=8)),
        {
            "transformer.wte.weight": 3,
            "transformer.wpe.weight": 3,
            "transformer.h.0.attn.c_attn.weight": 2,
            "transformer.h.2.mlp.c_proj.weight": 0,
            "transformer.ln_f.weight": 0,
        },
    ),
    "GPT-2 with a classifier": (
        lambda: tf.GPT2ForSequenceClassification(
            tf.GPT2Config(vocab_size=30, n_embd=8, n_layer=3, n_head=2, n_positions=8)
        ),
        {
            "transformer.wte.weight": 4,
            "transformer.h.2.ln_1.weight": 1,
            "transformer.ln_f.weight": 1,
            "score.weight": 0,
        },
    ),
    "OPT, a final norm registered before the blocks": (
        lambda: tf.OPTForCausalLM(tf.OPTConfig(**OPT)),
        {
            "model.decoder.embed_tokens.weight": 3,
            "model.decoder.layers.0.fc1.weight": 2,
            "model.decoder.layers.2.fc1.weight": 0,
            "model.decoder.final_layer_norm.weight": 0,
        },
    ),
    "T5, the decoder deeper": (
        lambda: tf.T5ForSequenceClassification(tf.T5Config(**T5, num_layers=2, num_decoder_layers=3)),
        {
            "transformer.shared.weight": 4,
            "transformer.encoder.block.0.layer.0.SelfAttention.q.weight": 2,
            "transformer.encoder.block.1.layer.0.SelfAttention.q.weight": 1,
            "transformer.encoder.final_layer_norm.weight": 1,
            "transformer.decoder.block.0.layer.1.EncDecAttention.q.weight": 3,
            "transformer.decoder.block.2.layer.0.SelfAttention.q.weight": 1,
            "transformer.decoder.final_layer_norm.weight": 1,
            "classification_head.dense.weight": 0,
        },
    ),
    "T5, the encoder deeper": (
        lambda: tf.T5ForSequenceClassification(tf.T5Config(**T5, num_layers=4, num_decoder_layers=1)),
        {
            "transformer.shared.weight": 5,
            "transformer.encoder.block.0.layer.0.SelfAttention.q.weight": 4,
            "transformer.encoder.block.3.layer.0.SelfAttention.q.weight": 1,
            "transformer.decoder.block.0.layer.0.SelfAttention.q.weight": 1,
            "classification_head.dense.weight": 0,
        },
    ),
    "T5's encoder": (
        lambda: tf.T5ForTokenClassification(tf.T5Config(**T5, num_layers=3)),
        {
            "transformer.shared.weight": 4,
            "transformer.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 3,
            "transformer.encoder.block.2.layer.1.layer_norm.weight": 1,
            "transformer.encoder.final_layer_norm.weight": 1,
            "classifier.weight": 0,
        },
    ),
    "Whisper, its head tied to the embeddings": (
        lambda: tf.WhisperForConditionalGeneration(
            tf.WhisperConfig(**SEQ2SEQ, num_mel_bins=4, max_source_positions=8, max_target_positions=8)
        ),
        {
            "model.encoder.conv1.weight": 2,
            "model.encoder.layers.0.fc1.weight": 1,
            "model.encoder.layers.1.fc1.weight": 0,
            "model.encoder.layer_norm.weight": 0,
            "model.decoder.embed_tokens.weight": 3,
            "model.decoder.embed_positions.weight": 3,
            "model.decoder.layers.0.fc1.weight": 2,
            "model.decoder.layers.2.fc1.weight": 0,
            "model.decoder.layer_norm.weight": 0,
        },
    ),
    "Whisper's encoder": (
        lambda: tf.WhisperForAudioClassification(
            tf.WhisperConfig(**SEQ2SEQ, num_mel_bins=4, max_source_positions=8, classifier_proj_size=4)
        ),
        {
            "encoder.conv2.weight": 3,
            "encoder.layers.0.fc1.weight": 2,
            "encoder.layers.1.fc1.weight": 1,
            "encoder.layer_norm.weight": 1,
            "projector.weight": 0,
            "classifier.weight": 0,
        },
    ),
    "BART": (
        lambda: tf.BartForSequenceClassification(tf.BartConfig(**SEQ2SEQ, max_position_embeddings=16)),
        {
            "model.shared.weight": 4,
            "model.encoder.embed_positions.weight": 3,
            "model.encoder.layernorm_embedding.weight": 3,
            "model.encoder.layers.1.fc1.weight": 1,
            "model.decoder.embed_positions.weight": 4,
            "model.decoder.layers.0.fc1.weight": 3,
            "model.decoder.layers.2.fc1.weight": 1,
            "classification_head.dense.weight": 0,
        },
    ),
    "CLIP, two towers": (
        lambda: tf.CLIPModel(
            tf.CLIPConfig(
                text_config=TEXT | {"bos_token_id": 1, "eos_token_id": 2},
                vision_config=IMAGE | {"num_hidden_layers": 2},
                projection_dim=4,
            )
        ),
        {
            "text_model.embeddings.token_embedding.weight": 4,
            "text_model.encoder.layers.0.mlp.fc1.weight": 3,
            "text_model.encoder.layers.2.mlp.fc1.weight": 1,
            "text_model.final_layer_norm.weight": 1,
            "vision_model.embeddings.class_embedding": 3,
            "vision_model.pre_layrnorm.weight": 3,
            "vision_model.encoder.layers.0.mlp.fc1.weight": 2,
            "vision_model.encoder.layers.1.mlp.fc1.weight": 1,
            "vision_model.post_layernorm.weight": 1,
            "text_projection.weight": 0,
            "visual_projection.weight": 0,
            "logit_scale": 0,
        },
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_parameter_is_as_far_from_the_head_as_its_layer(name):
    build, expected = MODELS[name]
    assert distances(build(), expected) == expected


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_a_block_has_the_blocks_scale(name):
    scale = scales(MODELS[name][0]())
    blocks = {}
    for parameter, value in scale.items():
        inside = re.match(
            r".*?(block|layer|layers|h|albert_layers)\.\d+\.(?!blocks|layers|albert_layers|down)", parameter
        )
        if inside:
            blocks.setdefault(inside[0], set()).add(value)
    assert all(len(values) == 1 for values in blocks.values())


def test_a_base_without_a_head_has_scale_one_at_the_top():
    expected = {"embeddings.word_embeddings.weight": 3, "encoder.layer.2.output.dense.weight": 0}
    assert distances(tf.BertModel(tf.BertConfig(**TEXT), add_pooling_layer=False), expected) == expected


def test_biases_and_norms_of_bert_do_not_decay_and_everything_else_does():
    model = bert()
    names = {parameter: name for name, parameter in model.named_parameters()}
    spared = {names[p] for g in fs.layerwise(model, 1.0) if g["weight_decay"] == 0.0 for p in g["params"]}
    assert spared == {name for name in names.values() if name.endswith(".bias") or "LayerNorm" in name}


def test_a_compiled_model_has_the_scales_and_group_names_of_the_plain_one():
    model = bert()
    wrapped = torch.compile(model, backend="eager")
    plain, compiled = fs.layerwise(model, 1.0), fs.layerwise(wrapped, 1.0)
    assert [(g["name"], g["lr"]) for g in plain] == [(g["name"], g["lr"]) for g in compiled]


class Adapted(nn.Module):
    """A linear layer as PEFT's LoRA wraps it: the base frozen, two small matrices that train."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})


def test_adapters_in_a_frozen_model_have_the_scale_of_their_block():
    model = bert().requires_grad_(False)
    for layer in model.bert.encoder.layer:
        layer.attention.self.query = Adapted(layer.attention.self.query)
    model.classifier.requires_grad_(True)
    peft = nn.ModuleDict({"base_model": nn.ModuleDict({"model": model})})
    path = "base_model.model.bert.encoder.layer.{}.attention.self.query.lora_A.default.weight"
    assert distances(peft, [path.format(k) for k in range(3)]) == {path.format(k): 3 - k for k in range(3)}
    assert set(scales(peft)) == {name for name, p in peft.named_parameters() if p.requires_grad}
    assert scales(peft)["base_model.model.classifier.weight"] == 1.0


# Torchvision's ResNet and friends, small: their names and nesting, which is what the layers are found by.


class ConvNorm(nn.Sequential):
    def __init__(self, width_in, width, kernel=3):
        super().__init__(nn.Conv2d(width_in, width, kernel, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class BasicBlock(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if width != width_in:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    def __init__(self, *depths):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 7, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        for stage, depth in enumerate(depths, start=1):
            widths = [2**stage] + [2 ** (stage + 1)] * depth
            blocks = [BasicBlock(*pair) for pair in pairwise(widths)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2 ** (len(depths) + 1), 5)


def test_a_resnets_stages_count_on_from_its_stem_to_its_fc():
    expected = {
        "conv1.weight": 9,
        "bn1.weight": 9,
        "layer1.0.conv1.weight": 8,
        "layer1.1.bn2.weight": 7,
        "layer2.0.downsample.0.weight": 6,
        "layer4.0.downsample.1.weight": 2,
        "layer4.1.conv2.weight": 1,
        "fc.weight": 0,
    }
    assert distances(ResNet(2, 2, 2, 2), expected) == expected


def test_a_resnets_stages_of_one_block_count_on():
    expected = {"conv1.weight": 4, "layer1.0.conv1.weight": 3, "layer3.0.conv1.weight": 1, "fc.bias": 0}
    assert distances(ResNet(1, 1, 1), expected) == expected


class CNBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))
        self.block = nn.Sequential(nn.Conv2d(width, width, 7), nn.LayerNorm(width), nn.Linear(width, width))


def test_downsampling_between_the_stages_of_a_convnext_goes_with_the_block_that_follows():
    model = nn.Module()
    model.features = nn.Sequential(
        ConvNorm(3, 2),
        nn.Sequential(CNBlock(2), CNBlock(2)),
        nn.Sequential(nn.LayerNorm(2), nn.Conv2d(2, 4, 2)),
        nn.Sequential(CNBlock(4), CNBlock(4)),
    )
    model.classifier = nn.Sequential(nn.LayerNorm(4), nn.Flatten(), nn.Linear(4, 5))
    expected = {
        "features.0.0.weight": 5,
        "features.1.0.layer_scale": 4,
        "features.1.1.block.0.weight": 3,
        "features.2.0.weight": 2,
        "features.2.1.weight": 2,
        "features.3.0.block.0.weight": 2,
        "features.3.1.block.2.weight": 1,
        "classifier.0.weight": 0,
        "classifier.2.weight": 0,
    }
    assert distances(model, expected) == expected


def test_the_last_convolution_of_an_efficientnet_is_no_head():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(ConvNorm(2, 2))

    class Inverted(Fused):
        pass

    model = nn.Module()
    stages = (nn.Sequential(Fused(), Fused()), nn.Sequential(Inverted()), nn.Sequential(Inverted(), Inverted()))
    model.features = nn.Sequential(ConvNorm(3, 2), *stages, ConvNorm(2, 8))
    model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(8, 5))
    expected = {
        "features.0.0.weight": 6,
        "features.1.0.block.0.0.weight": 5,
        "features.2.0.block.0.0.weight": 3,
        "features.3.1.block.0.1.weight": 1,
        "features.4.0.weight": 1,
        "features.4.1.weight": 1,
        "classifier.1.weight": 0,
    }
    assert distances(model, expected) == expected


def test_the_convolutions_of_a_vgg_are_its_layers_and_its_classifier_is_all_head():
    convolutions = [(nn.Conv2d(3 if k == 0 else 2, 2, 3), nn.BatchNorm2d(2), nn.ReLU()) for k in range(4)]
    model = nn.Module()
    model.features = nn.Sequential(*(layer for part in convolutions for layer in part))
    model.classifier = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    expected = {"features.0.weight": 4, "features.1.weight": 4, "features.9.weight": 1, "features.10.weight": 1}
    expected |= {"classifier.0.weight": 0, "classifier.4.weight": 0}
    assert distances(model, expected) == expected


@pytest.mark.parametrize("encoder", [1, 3])
def test_torchs_own_transformer_counts_each_stack_from_its_top(encoder):
    model = nn.Transformer(4, 2, encoder, 2, 8, batch_first=True)
    expected = {f"encoder.layers.{k}.linear1.weight": encoder - 1 - k for k in range(encoder)}
    expected |= {"decoder.layers.0.linear1.weight": 1, "decoder.layers.1.linear1.weight": 0}
    expected |= {"encoder.norm.weight": 0, "decoder.norm.weight": 0}
    assert distances(model, expected) == expected


def test_branches_that_run_in_parallel_are_refused():
    def inception():
        made = nn.Module()
        made.branch1 = nn.Sequential(BasicBlock(2, 2), BasicBlock(2, 2))
        made.branch2 = nn.Sequential(BasicBlock(2, 2), BasicBlock(2, 2))
        return made

    model = nn.Module()
    for k in range(3):
        model.add_module(f"inception{k}", inception())
    with pytest.raises(
        ValueError, match=r"none around these parameters: inception0\.branch1\.0\.conv1\.weight.*layers="
    ):
        fs.layerwise(model, 1.0)


# Models of timm's kind, which say in `group_matcher` what their layers are.


class TimmSwin(nn.Module):
    """The names and the `group_matcher` of timm's Swin: a stage begins with its downsampling."""

    def __init__(self, *depths):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 2, 4)
        self.layers = nn.Sequential(*(self.stage(k, depth) for k, depth in enumerate(depths)))
        self.norm = nn.LayerNorm(2)
        self.head = nn.Module()
        self.head.fc = nn.Linear(2, 5)

    @staticmethod
    def stage(index, depth):
        made = nn.Module()
        if index:
            made.downsample = nn.Module()
            made.downsample.norm = nn.LayerNorm(8)
            made.downsample.reduction = nn.Linear(8, 2)
        made.blocks = nn.Sequential(*(BasicBlock(2, 2) for _ in range(depth)))
        return made

    def group_matcher(self, coarse=False):
        fine = [(r"^layers\.(\d+).downsample", (0,)), (r"^layers\.(\d+)\.\w+\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": r"^layers\.(\d+)" if coarse else fine}

    def no_weight_decay(self):
        return {"head.*"}


# What timm 1.0.31's `param_groups_layer_decay` gives a Swin of these names and depths.
TIMM_SWIN = {
    "patch_embed.proj.weight": 6,
    "layers.0.blocks.0.conv1.weight": 5,
    "layers.0.blocks.1.conv1.weight": 4,
    "layers.1.downsample.norm.weight": 3,
    "layers.1.downsample.reduction.weight": 3,
    "layers.1.blocks.0.conv1.weight": 3,
    "layers.1.blocks.2.bn1.weight": 1,
    "norm.weight": 1,
    "head.fc.weight": 0,
}


def test_a_group_matcher_tells_the_layers():
    assert distances(TimmSwin(2, 3), TIMM_SWIN) == TIMM_SWIN


def test_structure_tells_what_the_group_matcher_tells():
    model = TimmSwin(2, 3)
    model.group_matcher = None
    assert distances(model, TIMM_SWIN) == TIMM_SWIN


def test_a_group_matcher_is_heard_through_wrappers():
    wrapped = nn.DataParallel(torch.compile(TimmSwin(2, 3), backend="eager"))
    prefixed = {f"module._orig_mod.{name}": distance for name, distance in TIMM_SWIN.items()}
    assert distances(wrapped, prefixed) == prefixed


def test_what_stands_around_a_backbone_with_a_group_matcher_is_head_or_embeddings():
    model = nn.ModuleDict({"backbone": TimmSwin(2, 3), "neck": nn.Linear(2, 2), "embed": nn.Linear(2, 2)})
    expected = {f"backbone.{name}": distance for name, distance in TIMM_SWIN.items()}
    expected |= {"neck.weight": 0, "embed.weight": 6}
    assert distances(model, expected) == expected


def test_a_group_matcher_outweighs_structure():
    model = TimmSwin(2, 3)
    model.group_matcher = lambda coarse: {"stem": r"^patch_embed|layers\.0", "rest": r"^layers\.(\d+)"}
    expected = {"patch_embed.proj.weight": 2, "layers.0.blocks.1.conv1.weight": 2, "layers.1.blocks.0.conv1.weight": 1}
    expected |= {"norm.weight": 0, "head.fc.weight": 0}
    assert distances(model, expected) == expected


def test_a_group_matcher_may_be_a_function_as_caits_is():
    model = TimmSwin(2, 2)
    model.group_matcher = lambda coarse: lambda name: int(name.split(".")[1]) if "layers" in name else float("inf")
    expected = {"layers.0.blocks.0.conv1.weight": 2, "layers.1.blocks.1.conv1.weight": 1, "patch_embed.proj.weight": 0}
    assert distances(model, expected) == expected


def test_no_weight_decay_of_a_timm_model_may_have_wildcards():
    groups = fs.layerwise(TimmSwin(2, 2), 1.0, per_parameter=True)
    decays = {g["name"]: g["weight_decay"] > 0.0 for g in groups}
    assert not decays["head.fc.weight"]
    assert decays["patch_embed.proj.weight"]


def test_a_group_matcher_that_tells_nothing_is_refused():
    model = TimmSwin(1, 1)
    model.group_matcher = lambda coarse: {"blocks": r"^nothing\.(\d+)"}
    with pytest.raises(ValueError, match=r"group_matcher must tell layers apart, .*patch_embed\.proj\.weight.*layers="):
        fs.layerwise(model, 1.0)


def test_a_group_matcher_of_another_type_is_refused():
    model = TimmSwin(1, 1)
    model.group_matcher = lambda coarse: ["^layers"]
    with pytest.raises(TypeError, match="group_matcher must give a mapping or a function, got list"):
        fs.layerwise(model, 1.0)
