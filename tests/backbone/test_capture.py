"""Hooks against an independent explicit-attention forward, early stops against the whole one, and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from diffps.backbone.capture import Request, TapReader, attention_map, fixed_context
from diffps.backbone.checkpoint import Checkpoint
from diffps.backbone.frozen import Extractor
from diffps.backbone.latents import NoiseKey
from diffps.backbone.pruning import pruned
from diffps.errors import CheckpointError, UnknownTapError
from diffps.taps import TapSpec
from tests.backbone.reference import Reference, as_reference

TIMESTEP = 37
SELF_K = "up-level3-repeat1-vit-block0-self-k"
CROSS_MAP = "up-level1-repeat0-vit-block0-cross-map"


@pytest.fixture(scope="module")
def unet(checkpoint: Checkpoint) -> Any:
    return checkpoint.load_unet(torch.float32)


@pytest.fixture(scope="module")
def inputs(unet: Any) -> tuple[Tensor, Tensor]:
    """Latents of a canvas 128 x 192, two images, and a prompt of 11 tokens."""
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(2, 4, 16, 24, generator=generator),
        torch.randn(1, 11, unet.config.cross_attention_dim, generator=generator),
    )


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def read(unet: Any, table: dict[str, TapSpec], request: Request, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    with TapReader(unet, table, request) as reader:
        return reader.run(inputs[0], torch.tensor([TIMESTEP]), inputs[1])


def test_every_tap_equals_an_independent_forward(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    expected = Reference(unet)(inputs[0], TIMESTEP, inputs[1].expand(2, -1, -1))
    found = read(unet, checkpoint.taps, Request(tuple(checkpoint.taps), head="all"), inputs)
    assert set(found) == set(expected) == set(checkpoint.taps)
    for name, value in expected.items():
        result = as_reference(checkpoint.taps[name], found[name])
        assert result.shape == value.shape, name
        assert float((result - value).abs().max() / value.abs().max()) < 2e-5, name


def test_a_word_s_map_is_its_columns_of_the_whole_map(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    whole = read(unet, checkpoint.taps, Request((CROSS_MAP,), head="all"), inputs)[CROSS_MAP]
    spans = {"dog": (2, 3), "red shirt": (4, 7)}
    last = whole.shape[3] - 1
    single = [(head, whole[:, :, :, head : head + 1]) for head in (0, 1, last)]
    for head, expected in (("mean", whole.mean(3, keepdim=True)), *single, ("all", whole)):
        found = read(unet, checkpoint.taps, Request((CROSS_MAP,), spans, head), inputs)
        assert set(found) == {f"{CROSS_MAP}.dog", f"{CROSS_MAP}.red-shirt"}
        torch.testing.assert_close(found[f"{CROSS_MAP}.dog"], expected[..., 2])
        torch.testing.assert_close(found[f"{CROSS_MAP}.red-shirt"], expected[..., 4:7].mean(-1))


def test_blocks_of_positions_do_not_change_a_map(unet: Any, inputs: tuple[Tensor, Tensor]) -> None:
    attention = unet.up_blocks[3].attentions[0].transformer_blocks[0].attn2
    width = attention.to_q.in_features
    query, key = torch.randn(2, 37, width), torch.randn(2, 11, width)
    whole = attention_map(attention, query, key, slice(None))
    in_rows = attention_map(attention, query, key, slice(None), block_bytes=1)
    torch.testing.assert_close(in_rows, whole, rtol=0, atol=1e-6)
    assert torch.allclose(whole.sum(-1), torch.ones(()), atol=1e-5)


def test_stopping_early_changes_no_bit_of_any_tap(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    inputs = (inputs[0][:1, :, :8, :16], inputs[1])
    everything = Request(tuple(checkpoint.taps), head="all")
    with TapReader(unet, checkpoint.taps, everything) as reader:
        whole = reader.run(inputs[0], torch.tensor([TIMESTEP]), inputs[1], stop=False)
    for name in checkpoint.taps:
        request = Request((name,), head="all")
        stopped = read(unet, checkpoint.taps, request, inputs)
        with TapReader(pruned(unet, checkpoint.taps, [name]), checkpoint.taps, request) as reader:
            cut = reader.run(inputs[0], torch.tensor([TIMESTEP]), inputs[1], stop=False)
        assert torch.equal(stopped[name], whole[name]), name
        assert torch.equal(cut[name], whole[name]), name


def test_a_forward_ends_after_the_last_tap_unless_all_of_it_is_asked_for(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    ran: list[str] = []
    handle = unet.conv_out.register_forward_hook(lambda *_: ran.append("conv_out"))
    with TapReader(unet, checkpoint.taps, Request(("unet-after-conv-in",))) as reader:
        given = (inputs[0][:1, :, :8, :8], torch.tensor([TIMESTEP]), inputs[1])
        reader.run(*given)
        assert ran == []
        reader.run(*given, stop=False)
    handle.remove()
    assert ran == ["conv_out"]


def test_taps_that_fire_out_of_order_are_all_read(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    block = "up-level2-repeat0-vit-block0-self"
    names = (f"{block}-map", f"{block}-v", f"{block}-k", f"{block}-q")
    assert set(read(unet, checkpoint.taps, Request(names), inputs)) == set(names)


def test_the_unet_is_left_as_it_was_and_its_output_does_not_see_the_hooks(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    def output() -> Tensor:
        context = inputs[1].expand(2, -1, -1)
        result: Tensor = unet(inputs[0], TIMESTEP, encoder_hidden_states=context, return_dict=False)[0]
        return result

    plain = output()
    modules = dict(unet.named_modules())
    with fixed_context(unet, inputs[1]), TapReader(unet, checkpoint.taps, Request((SELF_K,))) as reader:
        reader.run(inputs[0], torch.tensor([TIMESTEP]), inputs[1])
    assert dict(unet.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    with TapReader(unet, checkpoint.taps, Request((SELF_K, "unet-out"))) as reader:
        found = reader.run(inputs[0], torch.tensor([TIMESTEP]), inputs[1], stop=False)
    assert torch.equal(output(), plain)
    assert torch.equal(found["unet-out"].movedim(3, 1), plain)


def test_keys_and_values_of_the_prompt_are_computed_once(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    request = Request((CROSS_MAP, SELF_K), head="all")
    plain = read(unet, checkpoint.taps, request, inputs)
    projection = unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k
    calls = []
    handle = projection.register_forward_hook(lambda *_: calls.append(1))
    with fixed_context(unet, inputs[1]):
        for _ in range(3):
            fixed = read(unet, checkpoint.taps, request, inputs)
    handle.remove()
    assert len(calls) == 1
    for name, value in plain.items():
        torch.testing.assert_close(fixed[name], value)


def test_an_extractor_computes_them_once_and_leaves_the_unet_as_it_was(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    modules, calls = dict(unet.named_modules()), []
    projection = unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k
    handle = projection.register_forward_hook(lambda *_: calls.append(1))
    alphas, keys = checkpoint.alphas_cumprod(), [NoiseKey("a", "identity")]
    with Extractor(unet, checkpoint.taps, alphas, Request((CROSS_MAP,)), inputs[1]) as extractor:
        for _ in range(2):
            extractor.features(inputs[0][:1, :, :8, :8], TIMESTEP, "none", keys, 0)
    handle.remove()
    assert len(calls) == 1
    assert dict(unet.named_modules()) == modules
    with pytest.raises(AssertionError, match="outside of the context"):
        extractor.features(inputs[0], TIMESTEP, "none", keys, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_pruned_unet_is_one_graph_and_gives_the_same_features(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor]
) -> None:
    from torch._dynamo.utils import counters

    request = Request((CROSS_MAP, "down-level1-repeat0-vit-out"), {"dog": (2, 3)})
    keys = [NoiseKey(name, "identity") for name in "ab"]

    def features(timestep: int, compiled: bool) -> dict[str, Tensor]:
        alphas = checkpoint.alphas_cumprod()
        with Extractor(unet, checkpoint.taps, alphas, request, inputs[1], compiled=compiled) as extractor:
            return extractor.features(inputs[0], timestep, "none", keys, 0)

    expected = features(TIMESTEP, compiled=False)
    torch.compiler.reset()
    counters.clear()
    found = features(TIMESTEP, compiled=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_what_hides_q_and_k_is_refused(checkpoint: Checkpoint) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Secretive:
        def __call__(self, attn: Any, hidden_states: Tensor, **_: Any) -> Tensor:
            return hidden_states

    fused = checkpoint.load_unet(torch.float32)
    fused.fuse_qkv_projections()
    with pytest.raises(CheckpointError, match="unfuse_qkv_projections"):
        TapReader(fused, checkpoint.taps, Request((SELF_K,)))
    hidden = checkpoint.load_unet(torch.float32)
    hidden.set_attn_processor(Secretive())
    with pytest.raises(CheckpointError, match=r"Secretive.*set_attn_processor\(AttnProcessor2_0\(\)\)"):
        TapReader(hidden, checkpoint.taps, Request((SELF_K,)))
    TapReader(hidden, checkpoint.taps, Request(("up-level0-repeat0-res-out",)))
    # The way out that both messages name.
    fused.unfuse_qkv_projections()
    hidden.set_attn_processor(AttnProcessor2_0())
    for mended in (fused, hidden):
        TapReader(mended, checkpoint.taps, Request((SELF_K,)))


def test_a_tap_or_head_that_is_not_there_is_refused(unet: Any, checkpoint: Checkpoint) -> None:
    with pytest.raises(UnknownTapError, match="nearest"):
        TapReader(unet, checkpoint.taps, Request(("up-level3-repeat0-vit-block0-cross-mop",)))
    heads = checkpoint.taps[CROSS_MAP].channels
    for head in (heads, -1):
        with pytest.raises(CheckpointError, match=rf"^tap {CROSS_MAP}: head {head} of {heads}; heads count from 0$"):
            TapReader(unet, checkpoint.taps, Request((CROSS_MAP,), {"dog": (2, 3)}, head))


def test_a_forward_that_passes_a_tap_by_is_an_error(
    unet: Any, checkpoint: Checkpoint, inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "forward", lambda *_, **__: None)
    with pytest.raises(CheckpointError, match=f"{SELF_K}: its module did not run"):
        read(unet, checkpoint.taps, Request((SELF_K,)), inputs)


@pytest.mark.parametrize(
    ("tap", "levels", "resnets", "attentions", "blocks"),
    [
        ("up-level1-repeat1-vit-block0-self-k", 2, 2, 2, 1),
        ("up-level2-repeat0-res-out", 3, 1, 1, None),  # its attention is only passed through
        ("up-level3-repeat2-vit-out", 4, 3, 3, 1),
        ("up-level0-repeat1-res-out", 1, 2, None, None),
        ("mid-vit-out", 0, None, None, None),
    ],
)
def test_what_comes_after_the_last_tap_is_cut_off(
    unet: Any, checkpoint: Checkpoint, tap: str, levels: int, resnets: int, attentions: int, blocks: int
) -> None:
    whole = [name for name, _ in unet.named_modules()]
    clone = pruned(unet, checkpoint.taps, ["unet-in", tap])
    assert (len(clone.up_blocks), clone.conv_norm_out, type(clone.conv_out)) == (levels, None, torch.nn.Identity)
    if levels:
        last = clone.up_blocks[-1]
        assert (len(last.resnets), last.upsamplers) == (resnets, None)
        assert len(getattr(last, "attentions", ())) == (attentions or 0)
        if blocks:
            assert len(last.attentions[-1].transformer_blocks) == blocks
        elif attentions:
            assert list(last.attentions[-1].parameters()) == []
    assert [name for name, _ in unet.named_modules()] == whole
    assert pruned(unet, checkpoint.taps, ["unet-out"]).conv_out is unet.conv_out
    with pytest.raises(UnknownTapError, match="nothing"):
        pruned(unet, checkpoint.taps, ["nothing"])
