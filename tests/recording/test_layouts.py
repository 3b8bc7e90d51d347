"""Whatever the layout of a module's tensor, a row is a position and knows where it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from probe_sae.errors import DatasetError, SettingsError, ShapeError
from probe_sae.host import Host, edit, hook_maps, load_host, tap
from probe_sae.host.layouts import as_rows, from_rows
from probe_sae.host.tiny import tiny_host
from probe_sae.recording import CaptureSettings, Recipe, batches, capture, dataset_from

FULL = CaptureSettings(dtype="float32", batch_size=2)


def pictures(height: int, width: int, count: int = 3) -> Recipe:
    noise = np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)
    return dataset_from(lambda: noise, name="noise", kind="image")


@pytest.mark.parametrize(
    ("layout", "shape"), [("BCHW", (2, 3, 4, 5)), ("BHWC", (2, 4, 5, 3)), ("BTD", (2, 20, 3))]
)
def test_rows_are_the_positions_and_go_back_where_they_were(
    layout: str, shape: tuple[int, ...]
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    rows = as_rows(tensor, layout)

    assert rows.shape == (2, 20, 3)
    there = {"BCHW": (1, slice(None), 2, 3), "BHWC": (1, 2, 3), "BTD": (1, 2 * 5 + 3)}[layout]
    assert torch.equal(rows[1, 2 * 5 + 3], tensor[there])
    assert torch.equal(from_rows(rows.clone(), layout, tensor), tensor)


def test_flat_rows_belong_to_their_inputs() -> None:
    tensor = torch.arange(24.0).reshape(6, 4)

    assert torch.equal(as_rows(tensor, "flat", 2)[1, 0], tensor[3])
    with pytest.raises(ShapeError, match="no whole number for 4 inputs"):
        as_rows(tensor, "flat", 4)


class Net(nn.Module):
    """A convolution, the same channels last, a pool; every layout in ten lines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 2, 2)
        self.last, self.first = nn.Identity(), nn.Identity()
        self.linear = nn.Linear(5, 6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.linear(self.last(x.permute(0, 2, 3, 1)))
        return self.head(self.pool(self.first(x)).flatten(1))


@pytest.fixture
def net() -> Host:
    torch.manual_seed(0)
    return load_host(Net())


@pytest.mark.filterwarnings("error")
def test_images_that_may_not_be_written_to_are_as_good(net: Host) -> None:
    """As of PIL's images: torch warns of memory that it could change."""
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    frozen = np.frombuffer(image.tobytes(), np.uint8).reshape(4, 4, 3)

    (there,), (wanted,) = (net.image_inputs([i]).values() for i in (frozen, image))

    assert torch.equal(there, wanted)


@pytest.mark.parametrize(
    "site",
    [
        "path:conv@out",
        "path:linear@in",
        "path:first@out",
        "path:last@out",
        "path:last@out:BHWC",
    ],
)
def test_the_layout_is_told_from_module_or_shape(net: Host, tmp_path: Path, site: str) -> None:
    recipe = pictures(8, 8)
    store = capture(net, recipe, site, tmp_path / "store", FULL)

    (batch,) = batches(net, recipe)
    with tap(net, "path:conv@out") as seen:
        net(batch.inputs)
    expected = seen["path:conv@out"].permute(0, 2, 3, 1).reshape(-1, 5)
    name = next(iter(store.sites))
    torch.testing.assert_close(store.read(name, 0, store.rows), expected)
    assert store.provenance["grid"] == [4, 4]


@pytest.mark.parametrize("site", ["path:first@out", "path:last@out"])
def test_an_edit_tells_layouts_as_a_recording_does(net: Host, site: str) -> None:
    (batch,) = batches(net, pictures(8, 8))
    rows: list[Tensor] = []

    with tap(net, "path:conv@out") as seen, edit(net, site, lambda x: rows.append(x) or x):
        net(batch.inputs)
        net(next(iter(batch.inputs.values())))

    expected = seen["path:conv@out"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(torch.cat(rows), expected)


@pytest.mark.parametrize(("height", "width"), [(10, 8), (10, 10)])
def test_a_layout_that_nothing_tells_is_asked_for(
    net: Host, tmp_path: Path, height: int, width: int
) -> None:
    """5 channels on 5 x 4 positions, or on 5 x 5: the shape alone does not say."""
    recipe = pictures(height, width)

    with pytest.raises(ShapeError, match="path:first@out:BCHW or path:first@out:BHWC"):
        capture(net, recipe, "path:first@out", tmp_path / "store", FULL)
    store = capture(net, recipe, "path:first@out:BCHW", tmp_path / "store", FULL, force=True)
    assert store.site("path:first@out:BCHW").width == 5


def test_an_image_that_is_not_square_keeps_its_grid(net: Host, tmp_path: Path) -> None:
    store = capture(net, pictures(8, 12), "path:conv@out", tmp_path / "store", FULL)

    assert store.provenance["grid"] == [4, 6]
    assert store.column("pos")[:24].tolist() == list(range(24))


def test_one_row_an_input(net: Host, tmp_path: Path) -> None:
    store = capture(net, pictures(8, 8), "path:head@out", tmp_path / "store", FULL)

    assert store.rows == 3


def test_sites_of_different_resolution_do_not_share_rows(net: Host, tmp_path: Path) -> None:
    sites = ["path:conv@out", "path:pool@out"]

    with pytest.raises(ShapeError, match="1 positions of 2 inputs, but path:conv@out has 16 of 2"):
        capture(net, pictures(8, 8), sites, tmp_path / "store", FULL)


def processed(host: Host) -> Host:
    """Give a tiny host a processor that only scales."""

    def processor(image: Tensor) -> Tensor:
        return image.float() / 255

    return Host(host.model, host.name, processor=processor, hook_map=host.hook_map)


def tiny(family: str, **config: Any) -> Host:
    hook_map = next(m for m in hook_maps() if m.family == family)
    return processed(tiny_host(hook_map, hook_map.tiny[0]))


@pytest.mark.parametrize(
    ("tokens", "places"), [("patch", slice(5, None)), ("cls", [0]), ("register", slice(1, 5))]
)
def test_special_positions_of_an_image_are_rows_only_when_asked_for(
    tmp_path: Path, tokens: str, places: Any
) -> None:
    host = tiny("dinov2_with_registers")
    side = host.config.image_size
    assert host.config.num_register_tokens == 4
    settings = CaptureSettings(dtype="float32", tokens=tokens)
    recipe = pictures(side, side)

    store = capture(host, recipe, "blocks.1.resid_post", tmp_path / "store", settings)

    (batch,) = batches(host, recipe)
    state = host({**batch.inputs, "output_hidden_states": True}).hidden_states[2]
    expected = state[:, places].flatten(0, 1)
    torch.testing.assert_close(store.read("blocks.1.resid_post", 0, store.rows), expected)


def test_a_model_without_a_class_token_says_so(tmp_path: Path) -> None:
    host = tiny("siglip")
    side = host.config.vision_config.image_size
    settings = CaptureSettings(tokens="cls")

    with pytest.raises(SettingsError, match="there is no cls among them"):
        capture(host, pictures(side, side), "vision.blocks.0.resid_post", tmp_path / "s", settings)


def test_the_image_tower_of_clip_needs_no_text(tmp_path: Path) -> None:
    host = tiny("clip")
    side = host.config.vision_config.image_size
    recipe = pictures(side, side)

    store = capture(host, recipe, "vision.blocks.*.resid_post", tmp_path / "store", FULL)

    (batch,) = batches(host, recipe)
    model: Any = host.model
    with torch.no_grad():
        states = model.vision_model(**batch.inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(
        store.read("vision.blocks.0.resid_post", 0, store.rows), states[1][:, 1:].flatten(0, 1)
    )


def test_the_encoder_of_an_encoder_decoder_needs_no_decoder(tmp_path: Path, code_lm: Host) -> None:
    config = transformers.T5Config(
        d_model=16,
        num_layers=2,
        num_heads=2,
        d_kv=8,
        d_ff=24,
        vocab_size=len(code_lm.tokenizer),
    )
    host = load_host(transformers.T5Model(config), tokenizer=code_lm.tokenizer)
    recipe = dataset_from(lambda: ["x = 1\n" * 9, "import os\n"], name="two", kind="text")

    store = capture(host, recipe, "encoder.blocks.1.resid_post", tmp_path / "store", FULL)

    assert store.rows > 20
    assert store.site("encoder.blocks.1.resid_post").width == 16


def test_flat_sites_leave_padding_out_too(tmp_path: Path, code_lm: Host) -> None:
    config = transformers.OPTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=24,
        vocab_size=len(code_lm.tokenizer),
        word_embed_proj_dim=16,
        max_position_embeddings=64,
    )
    host = load_host(transformers.OPTModel(config), tokenizer=code_lm.tokenizer)
    recipe = dataset_from(lambda: ["x = 1\n" * 9, "import os\n"], name="two", kind="text")
    sites = ["blocks.0.resid_mid", "blocks.0.mlp_out", "blocks.0.resid_post"]

    store = capture(host, recipe, sites, tmp_path / "store", FULL)

    parts = [store.read(site, 0, store.rows) for site in sites]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])


def test_a_site_of_the_other_tower_is_refused_before_anything_runs(tmp_path: Path) -> None:
    host = tiny("clip")
    side = host.config.vision_config.image_size

    with pytest.raises(DatasetError, match="sees texts, but dataset noise holds images"):
        capture(host, pictures(side, side), "text.blocks.0.resid_post", tmp_path / "store", FULL)
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_the_host_does_not_take_are_one_clear_error(tmp_path: Path) -> None:
    host = load_host(nn.Sequential(nn.Linear(7, 2)))

    with pytest.raises(ShapeError, match=r"does not run on input \[2, 3, 8, 8\]: RuntimeError: "):
        capture(host, pictures(8, 8), "path:0@out", tmp_path / "store", FULL)


def test_images_of_different_sizes_are_one_clear_error(tmp_path: Path) -> None:
    made = [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]
    recipe = dataset_from(lambda: made, name="two", kind="image")

    with pytest.raises(ShapeError, match=r"of \[3, 8, 8\] and of \[3, 9, 8\] at once .*Resize"):
        capture(load_host("pixels"), recipe, "input", tmp_path / "store", FULL)


@pytest.mark.parametrize("processor", [3, lambda image: torch.zeros(2, 3, 8, 8), lambda _: None])
def test_a_processor_that_makes_no_image_is_one_clear_error(processor: Any) -> None:
    host = load_host(nn.Sequential(nn.Flatten()), processor=processor)

    with pytest.raises(ShapeError, match=r"prepares no images|of an image; expected a tensor"):
        list(batches(host, pictures(8, 8)))


def test_a_tensor_that_the_host_does_not_take_is_named() -> None:
    with pytest.raises(ShapeError, match=r"does not run on input \[2, 5\]"):
        load_host(nn.Sequential(nn.Linear(7, 2))).run(torch.zeros(2, 5))


class Sequence(nn.Module):
    """Gives [positions, batch, width] in one place, and a 1-d convolution in another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Identity(), nn.Conv1d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x.flatten(1, 2).permute(2, 0, 1))
        return self.conv(rows.permute(1, 2, 0))


def test_a_batch_that_is_not_first_is_refused(tmp_path: Path) -> None:
    host = load_host(Sequence())

    with pytest.raises(ShapeError, match="its first axis is not the batch"):
        capture(host, pictures(8, 7), "path:first@out:BTD", tmp_path / "store", FULL)


def test_what_takes_any_layout_is_asked_for_its_own_where_sequences_are(tmp_path: Path) -> None:
    """An activation behind a 1-d convolution gives channels first; elsewhere it does not."""
    host = load_host(nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 5, 1), nn.ReLU()))

    with pytest.raises(ShapeError, match="path:2@out:BCT or path:2@out:BTD"):
        capture(host, pictures(8, 7), "path:2@out", tmp_path / "store", FULL)
    store = capture(host, pictures(8, 7), "path:2@out:BCT", tmp_path / "bct", FULL)
    assert store.site("path:2@out:BCT").width == 5

    block = nn.Sequential(nn.Flatten(2), nn.Linear(56, 5), nn.ReLU())
    host = load_host(nn.Sequential(block, nn.Sequential(nn.AdaptiveAvgPool1d(1))))
    assert capture(host, pictures(8, 7), "path:0.2@out", tmp_path / "btd", FULL).rows == 9


def test_the_rows_of_a_one_dimensional_convolution_are_its_positions(tmp_path: Path) -> None:
    host = load_host(Sequence())
    recipe = pictures(8, 7)

    store = capture(host, recipe, "path:conv@out", tmp_path / "store", FULL)

    (batch,) = batches(host, recipe)
    expected = host(batch.inputs).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(store.read("path:conv@out", 0, store.rows), expected)


def test_windows_are_not_rows(tmp_path: Path) -> None:
    host = tiny("swin")
    side = host.config.image_size
    site = next(name for name, s in host.sites.items() if s.layout == "windows")

    with pytest.raises(ShapeError, match="windows of local attention"):
        capture(host, pictures(side, side), site, tmp_path / "store", FULL)


def test_attention_patterns_are_not_rows(tmp_path: Path) -> None:
    hook_map = next(m for m in hook_maps() if m.family == "vit")
    host = processed(tiny_host(hook_map, hook_map.tiny[0], "eager"))
    side = host.config.image_size

    with pytest.raises(ShapeError, match="attention weights, which are no rows"):
        capture(host, pictures(side, side), "blocks.0.attn_pattern", tmp_path / "store", FULL)
