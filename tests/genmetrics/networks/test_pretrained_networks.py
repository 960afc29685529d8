import json
from dataclasses import replace
from functools import partial

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from genmetrics import UsageError, WeightsUnavailable, get_extractor
from genmetrics.cli import main
from genmetrics.networks.conformance import check_extractor
from genmetrics.networks.open_clip_networks import (
    CLIP_MODEL,
    CLIP_PREPROCESSING,
    CLIP_REPOSITORY,
    clip_features,
    find_clip_weights,
)
from genmetrics.networks.preprocessing import Preprocessing
from genmetrics.networks.timm_networks import (
    DINOV2_MODEL,
    DINOV2_REPOSITORY,
    DINOV2_URL,
    dinov2_features,
    dinov2_positions,
    find_dinov2_weights,
    timm_features,
)
from genmetrics.networks.weights import sha256_of

TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 42, "layers": 2, "width": 64, "patch_size": 14},
    "text_cfg": {"context_length": 7, "vocab_size": 11, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(autouse=True)
def no_weights_around(monkeypatch, tmp_path):
    monkeypatch.delenv("GENMETRICS_WEIGHTS", raising=False)
    monkeypatch.setenv("GENMETRICS_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def random_timm(tmp_path):
    def save(name, suffix=".pth", **options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = timm.create_model(name, pretrained=False, **options).eval()
        file = tmp_path / f"{name}{suffix}"
        if suffix == ".safetensors":
            save_file(network.state_dict(), file)
        else:
            torch.save(network.state_dict(), file)
        return network, file

    return save


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny.json").write_text(json.dumps(TINY_CLIP))
    (folder / "tiny-quickgelu.json").write_text(json.dumps(TINY_CLIP | {"quick_gelu": True}))
    open_clip.add_model_config(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("tiny").eval()
    torch.save(model.state_dict(), folder / "tiny.pt")
    return model, folder / "tiny.pt"


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("size", [(72, 72), (301, 200), (160, 233)], ids=str)
def test_timm_features_are_timms_own_behind_its_own_transform(random_timm, emoji, name, size):
    network, file = random_timm(name)
    picture = Image.fromarray(emoji[0]).resize(size)
    configuration = timm.data.resolve_data_config({}, model=network)
    pixels = timm.data.create_transform(**configuration)(picture)[None]
    network.reset_classifier(0)
    extractor = get_extractor(f"timm:{name}", weights=file)
    images = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None]
    # One grey level is Pillow's rounding; in units of the normalised image.
    level = 1.01 / 255 / min(configuration["std"])
    seen = extractor.network.preprocessing(images)
    torch.testing.assert_close(seen, pixels, rtol=0, atol=level)
    assert (seen - pixels).abs().mean() < 0.05 * level
    features = extractor(images)["features"]
    assert features.shape == (1, extractor.dim)
    torch.testing.assert_close(features, network(seen), rtol=1e-5, atol=1e-5)
    assert check_extractor(extractor) == []
    assert extractor.frechet_name == f"fd_timm:{name}"
    assert extractor.weights_sha256 == sha256_of(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_found_in_the_folder(random_timm, monkeypatch, suffix):
    _, file = random_timm("test_resnet", suffix)
    monkeypatch.setenv("GENMETRICS_WEIGHTS", str(file.parent))
    assert get_extractor("timm:test_resnet").weights_sha256 == sha256_of(file)


def test_the_hubs_file_is_used_and_offline_only_its_cache(random_timm, monkeypatch):
    _, file = random_timm("test_resnet", ".safetensors")
    asked = []

    def download(repository, name, *, local_files_only):
        asked.append((repository, name, local_files_only))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert get_extractor("timm:test_resnet").weights_sha256 == sha256_of(file)
    monkeypatch.delenv("GENMETRICS_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    get_extractor("timm:test_resnet.r160_in1k")
    repository = "timm/test_resnet.r160_in1k"
    assert asked == [(repository, "model.safetensors", offline) for offline in (True, False)]


def test_a_name_that_is_near_no_model_is_told_where_they_are_listed():
    with pytest.raises(UsageError, match=r"got timm:zzz\. timm\.list_models\(\) lists them"):
        get_extractor("timm:zzz")


@pytest.mark.parametrize(
    "name", ["timm:test_vit", "dinov2", "clip", "open_clip:ViT-B-32/laion2b_s34b_b79k"]
)
def test_missing_weights_are_never_random(name):
    with pytest.raises(WeightsUnavailable, match=r"found no cached file.*GENMETRICS_WEIGHTS"):
        get_extractor(name)


def test_missing_weights_exit_4_before_an_image_is_read(tmp_path, write_images, emoji, capsys):
    folder = write_images(emoji[:1])
    (folder / "0.png").write_bytes(b"no image")
    argv = ["features", str(folder), str(tmp_path / "x.npz"), "--extractor", "timm:test_vit"]
    assert main(argv) == 4
    assert "--weights FILE" in capsys.readouterr().err


def test_a_named_file_that_is_not_there_is_not_passed_over(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"gone\.pth"):
        get_extractor("timm:test_vit", weights=tmp_path / "gone.pth")


def test_weights_of_another_network_are_refused(random_timm):
    _, file = random_timm("test_resnet")
    with pytest.raises(WeightsUnavailable, match=r"timm:test_vit in .*test_resnet\.pth"):
        get_extractor("timm:test_vit", weights=file)


def test_a_file_that_lacks_one_tensor_is_refused(random_timm, tiny_clip, tmp_path):
    network, _ = random_timm("test_vit")
    for name, state, lost in [
        ("timm:test_vit", network.state_dict(), "blocks.0.norm1.weight"),
        ("open_clip:tiny", tiny_clip[0].state_dict(), "visual.conv1.weight"),
    ]:
        del state[lost]
        torch.save(state, tmp_path / "part.pth")
        with pytest.raises(WeightsUnavailable, match=lost.replace(".", r"\.")):
            get_extractor(name, weights=tmp_path / "part.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet81", "Did you mean resnet"),
        ("timm:resnet18.nope", "nope"),
        ("open_clip:ViT-B-33", "Did you mean ViT-B-32"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "Did you mean laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/openai", "with -quickgelu"),
    ],
)
def test_unknown_models_of_libraries_are_usage_errors(name, message):
    with pytest.raises(UsageError, match=message):
        get_extractor(name)


def test_open_clip_without_a_tag_names_the_tags():
    with pytest.raises(WeightsUnavailable, match="laion2b_s34b_b79k"):
        get_extractor("open_clip:ViT-B-32")


def bicubic_table(old, side):
    """Weights of cubic interpolation (a = -0.75, edges repeated), scale (side + 0.1) / old."""
    table = np.zeros((side, old))
    for i in range(side):
        at = (i + 0.5) * old / (side + 0.1) - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            x, a = abs(at - j), -0.75
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            table[i, min(max(j, 0), old - 1)] += near if x <= 1 else far
    return table


def test_dinov2_positions_are_plain_bicubic_with_the_offset():
    table = torch.randn(1, 1 + 37**2, 3, generator=torch.Generator().manual_seed(0))
    grid = table[0, 1:].double().numpy().reshape(37, 37, 3)
    weights = bicubic_table(37, 16)
    expected = np.einsum("ya,xb,abd->yxd", weights, weights, grid).reshape(256, 3)
    found = dinov2_positions(table, 16)
    assert torch.equal(found[0, 0], table[0, 0])
    np.testing.assert_allclose(found[0, 1:], expected, atol=1e-4)


def test_dinov2_is_the_class_token_with_these_positions(random_timm, emoji):
    name = "vit_small_patch14_dinov2.lvd142m"
    network, file = random_timm(name, num_classes=0)
    table = network.state_dict()["pos_embed"]
    assert table.shape[1] == 1 + 37**2
    generator = torch.Generator().manual_seed(1)
    for key, value in network.state_dict().items():  # at timm's start the blocks do nothing
        if key.endswith("gamma"):
            value.fill_(1)
    table.normal_(generator=generator)
    release = {**network.state_dict(), "mask_token": torch.zeros(1, 384)}
    torch.save(release, file)
    features = dinov2_features(file, name)
    images = torch.from_numpy(emoji[:2]).movedim(-1, 1)
    pixels = features.preprocessing(images)
    assert pixels.shape == (2, 3, 224, 224)
    tokens = network.patch_embed.proj(pixels).flatten(2).mT
    tokens = torch.cat([network.cls_token.expand(2, -1, -1), tokens], dim=1)
    expected = network.norm(network.blocks(tokens + dinov2_positions(table, 16)))[:, 0]
    found = features(images)["features"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    timms = timm.create_model(name, pretrained=False, num_classes=0, img_size=224).eval()
    timms.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(release, timms))
    assert (timms(pixels) - found).norm() > 1e-3 * found.norm()


def test_open_clip_embeddings_are_its_own_and_not_normalised(tiny_clip, emoji):
    model, file = tiny_clip
    extractor = get_extractor("open_clip:tiny", weights=file)
    picture = Image.fromarray(emoji[1]).resize((61, 50))
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )
    images = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None]
    seen = extractor.network.preprocessing(images)
    torch.testing.assert_close(seen, transform(picture)[None], rtol=0, atol=1.01 / 255 / 0.26)
    found = extractor(images)["features"]
    torch.testing.assert_close(found, model.encode_image(seen), rtol=1e-5, atol=1e-5)
    assert abs(found.norm() - 1) > 1e-2
    assert check_extractor(extractor) == []


def test_clip_sees_cmmds_plain_bicubic_square_and_quick_gelu(tiny_clip, emoji, monkeypatch):
    model, file = tiny_clip
    small = replace(CLIP_PREPROCESSING, size=42, scaled=42)
    monkeypatch.setattr("genmetrics.networks.open_clip_networks.CLIP_PREPROCESSING", small)
    features = clip_features(file, "tiny-quickgelu")
    images = torch.from_numpy(emoji[:2]).movedim(-1, 1)[..., :50]
    resized = torch.nn.functional.interpolate(images.float() / 255, (42, 42), mode="bicubic")
    mean, std = (
        torch.tensor(model.visual.preprocess_cfg[k])[:, None, None] for k in ("mean", "std")
    )
    seen = features.preprocessing(images)
    torch.testing.assert_close(seen, (resized - mean) / std, rtol=0, atol=1e-5)
    quick = open_clip.create_model("tiny-quickgelu", pretrained=str(file)).eval()
    found = features(images)["features"]
    torch.testing.assert_close(found, quick.encode_image(seen), rtol=1e-5, atol=1e-5)
    assert (found - model.encode_image(seen)).norm() > 1e-4 * found.norm()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "dinov2", "clip"])
def test_a_default_of_float64_changes_no_features(
    random_timm, tiny_clip, monkeypatch, in_float64, name, emoji
):
    small = replace(CLIP_PREPROCESSING, size=42, scaled=42)
    monkeypatch.setattr("genmetrics.networks.open_clip_networks.CLIP_PREPROCESSING", small)
    vit = "vit_small_patch14_dinov2.lvd142m"
    images = torch.from_numpy(emoji[:2]).movedim(-1, 1)
    if name == "clip":
        build = partial(clip_features, tiny_clip[1], "tiny-quickgelu")
    elif name == "dinov2":
        build = partial(dinov2_features, random_timm(vit, num_classes=0)[1], vit)
    else:
        build = partial(timm_features, name, random_timm(name)[1])
    wanted = build()(images)["features"]
    with in_float64():
        found = build()(images)["features"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_named_networks_are_those_of_the_libraries():
    dinov2 = timm.get_pretrained_cfg(DINOV2_MODEL)
    assert (dinov2.hf_hub_id, dinov2.url) == (DINOV2_REPOSITORY, DINOV2_URL)
    clip = open_clip.get_pretrained_cfg(CLIP_MODEL, "openai")
    assert clip["hf_hub"] == f"{CLIP_REPOSITORY}/"
    assert open_clip.get_model_config(CLIP_MODEL)["quick_gelu"]
    assert open_clip.get_model_config(CLIP_MODEL)["vision_cfg"]["image_size"] == 336


def test_named_networks_are_found_by_their_file_names(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMETRICS_WEIGHTS", str(tmp_path))
    for find, file in [
        (find_dinov2_weights, "dinov2_vitl14_pretrain.pth"),
        (find_clip_weights, "ViT-L-14-336-openai.safetensors"),
    ]:
        (tmp_path / file).touch()
        assert find() == tmp_path / file


@pytest.mark.parametrize("filter_name", ["bicubic", "bilinear"])
def test_resize_is_pillows_within_one_grey_level(emoji, filter_name):
    see = Preprocessing(
        size=29, scaled=29, squash=True, interpolation=filter_name, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    images = torch.from_numpy(emoji[:3]).movedim(-1, 1)[..., :61]
    kind = getattr(Image.Resampling, filter_name.upper())
    expected = [np.array(Image.fromarray(e[:, :61]).resize((29, 29), kind)) for e in emoji[:3]]
    levels = see(images) * 255 - torch.from_numpy(np.stack(expected)).movedim(-1, 1)
    assert levels.abs().max() < 1.01
    assert levels.abs().mean() < 0.1
