import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from genmetrics.errors import BadInput, UsageError, WeightsUnavailable
from genmetrics.evaluation.reconstruction import reconstruction_metrics
from genmetrics.features.extraction import extract_features
from genmetrics.images.pairing import PairingError, pair_images
from genmetrics.images.sources import open_images
from genmetrics.metrics.frechet import frechet_distance_from_features
from genmetrics.metrics.pixel_metrics import mean_squared_error, psnr, psnr_from_mse, ssim
from genmetrics.networks.extractors import get_extractor
from genmetrics.networks.perceptual import WEIGHTS_FILE, find_backbone_weights, perceptual_distance

GAUSSIAN = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "truncate": 3.5,
    "use_sample_covariance": False,
}


@pytest.fixture
def pairs(emoji):
    """Three pictures and noisy ones, (3, 72, 72, 3)."""
    return emoji[:3], noisy(emoji[:3])


def noisy(images, scale=20.0, seed=0):
    noise = np.random.default_rng(seed).normal(0, scale, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


def channels_first(images):
    return torch.from_numpy(images).movedim(-1, 1)


def test_psnr_is_scikit_images(pairs):
    found = psnr(*map(channels_first, pairs))
    expected = [peak_signal_noise_ratio(x, y) for x, y in zip(*pairs, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_of_bytes_is_scikit_images(pairs, window):
    options = GAUSSIAN if window == "gaussian" else {}
    found = ssim(*map(channels_first, pairs), window=window)
    expected = [
        structural_similarity(x, y, channel_axis=2, data_range=255, **options)
        for x, y in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_of_floats_is_scikit_images_at_any_range_and_shape(window, data_range):
    rng = np.random.default_rng(1)
    x = rng.random((2, 23, 17, 3))
    y = x + 0.1 * rng.standard_normal(x.shape)
    options = GAUSSIAN if window == "gaussian" else {}
    found = ssim(*map(channels_first, (x, y)), window=window, data_range=data_range)
    expected = [
        structural_similarity(a, b, channel_axis=2, data_range=data_range, **options)
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_equal_images_are_capped_at_100_db():
    image = torch.full((1, 3, 11, 13), 77, dtype=torch.uint8)
    assert psnr(image, image).item() == 100.0
    assert ssim(image, image).item() == pytest.approx(1.0, abs=1e-12)


def test_mean_of_psnrs_is_not_psnr_of_the_mean():
    mse = torch.tensor([1e-3, 1e-2, 1e-4], dtype=torch.float64)
    assert psnr_from_mse(mse, 1.0).mean().item() == pytest.approx(30.0)
    assert psnr_from_mse(mse.mean(), 1.0).item() == pytest.approx(24.318, abs=1e-3)


def test_floats_have_no_range_to_guess():
    image = torch.zeros(1, 3, 12, 12)
    for score in (psnr, ssim):
        with pytest.raises(UsageError, match=r"data_range of torch.float32 .*got None"):
            score(image, image)
        with pytest.raises(UsageError, match="above 0; got -1"):
            score(image, image, data_range=-1.0)


def test_bytes_against_floats_are_refused():
    image = torch.zeros(1, 3, 12, 12)
    for score in (psnr, ssim):
        with pytest.raises(BadInput, match=r"two of floats; got torch.uint8 and torch.float32"):
            score(image.byte(), image)


def test_ssim_of_a_large_batch_is_that_of_each_pair_in_bounded_memory(one_thread, monkeypatch):
    generator, shape = torch.Generator().manual_seed(0), (3, 1, 1100, 1300)
    x, y = (torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(2))
    alone = [ssim(*pair, window="uniform") for pair in zip(x.split(1), y.split(1), strict=True)]
    sizes, conv2d = [], torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional, "conv2d", lambda x, w: sizes.append(x.numel()) or conv2d(x, w)
    )
    assert torch.equal(ssim(x, y, window="uniform"), torch.cat(alone))
    assert max(sizes) < 5 * 2**22  # float64: 168 MB


def test_ssim_of_no_pair_is_empty():
    nothing = torch.zeros(0, 3, 19, 23, dtype=torch.uint8)
    assert ssim(nothing, nothing).shape == (0,)


@pytest.mark.parametrize(("window", "side"), [("gaussian", 11), ("uniform", 7)])
def test_ssim_needs_a_whole_window(window, side):
    image = torch.zeros(1, 3, side, 19, dtype=torch.uint8)
    assert ssim(image, image, window=window).item() == 1.0
    with pytest.raises(BadInput, match=f"at least {side} pixels .* got 19x{side - 1}"):
        ssim(image[:, :, 1:], image[:, :, 1:], window=window)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The package's LPIPS with random backbones, and these as files of torchvision's layout."""
    import warnings

    import lpips

    folder = tmp_path_factory.mktemp("backbones")

    def build(net, version="0.1"):
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(7)
            network = lpips.LPIPS(net=net, version=version, pnet_rand=True, verbose=False)
        state = network.net.state_dict()
        file = folder / f"{net}.pth"
        torch.save({re.sub(r"slice\d+", "features", k): v for k, v in state.items()}, file)
        return network, file

    return build


@pytest.mark.parametrize(("net", "version"), [("alex", "0.1"), ("alex", "0.0"), ("squeeze", "0.1")])
def test_lpips_is_the_packages(pairs, backbone, net, version):
    network, file = backbone(net, version)
    x, y = map(channels_first, pairs)
    found = perceptual_distance(net, version=version, weights=file)(x, y)
    with torch.no_grad():
        expected = network(x / 127.5 - 1, y / 127.5 - 1).flatten()
    assert found.min() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_mixed_precision_around_lpips_changes_nothing(pairs, backbone):
    distance = perceptual_distance(weights=backbone("alex")[1])
    x, y = map(channels_first, pairs)
    wanted = distance(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(x, y), wanted)


def test_vgg_backbone_has_the_expected_names(backbone):
    network, file = backbone("vgg")
    loaded = perceptual_distance("vgg", weights=file).network.net
    for (name, p), q in zip(network.net.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_default_of_float64_changes_no_lpips(pairs, backbone, in_float64):
    file = backbone("alex")[1]
    x, y = map(channels_first, pairs)
    wanted = perceptual_distance(weights=file)(x, y)
    with in_float64():
        found = perceptual_distance(weights=file)(x, y)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_building_lpips_leaves_the_global_generator_alone(backbone):
    _, file = backbone("alex")
    before = torch.random.get_rng_state()
    perceptual_distance(weights=file)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("squeeze", 17)])
def test_lpips_refuses_what_its_backbone_cannot_see(backbone, net, side):
    _, file = backbone(net)
    distance = perceptual_distance(net, weights=file)
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    assert distance(image, image).item() == 0.0
    with pytest.raises(BadInput, match=f"at least {side} pixels"):
        distance(image[..., 1:], image[..., 1:])


def test_weights_of_another_backbone_are_refused(backbone):
    _, file = backbone("alex")
    with pytest.raises(WeightsUnavailable, match=r"tensors are missing.*belongs to the LPIPS net"):
        perceptual_distance("squeeze", weights=file)


def test_weights_are_sought_in_file_folder_cache_and_download(tmp_path, monkeypatch):
    name = WEIGHTS_FILE["alex"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GENMETRICS_WEIGHTS", str(tmp_path / "folder"))
    monkeypatch.delenv("GENMETRICS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    asked = []

    def download(url, target, prefix, *, progress):
        asked.append((url, prefix))
        shutil.copy(__file__, target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    cached = tmp_path / "home" / "hub" / "checkpoints" / name
    assert find_backbone_weights("alex") == cached
    assert asked == [(f"https://download.pytorch.org/models/{name}", "7be5be79")]
    assert find_backbone_weights("alex") == cached
    assert len(asked) == 1
    (tmp_path / "folder").mkdir()
    in_folder = tmp_path / "folder" / name
    in_folder.touch()
    assert find_backbone_weights("alex") == in_folder
    assert find_backbone_weights("alex", cached) == cached


def test_offline_and_failed_downloads_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("GENMETRICS_WEIGHTS", raising=False)
    for name in ("GENMETRICS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def download(url, target, prefix, *, progress):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(WeightsUnavailable, match=r"failed \(no route\).*--lpips-weights FILE"):
        find_backbone_weights("vgg")
    monkeypatch.setenv("GENMETRICS_OFFLINE", "1")
    with pytest.raises(WeightsUnavailable, match=r"vgg16-397923af.pth.*downloads are switched off"):
        find_backbone_weights("vgg")
    with pytest.raises(WeightsUnavailable, match="no file at"):
        find_backbone_weights("vgg", tmp_path / "gone.pth")


def save(folder, names, images):
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return open_images(folder)


def test_names_pair_whatever_the_extension_and_the_order(tmp_path, emoji):
    real = save(tmp_path / "real", ["b/2.v1.bmp", "a/2.png", "10.png"], emoji[:3])
    recon = save(tmp_path / "recon", ["10.bmp", "a/2.bmp", "b/2.v1.png"], emoji[[2, 1, 0]])
    pairs = pair_images(real, recon)
    assert pairs.names == ["10", "a/2", "b/2.v1"]
    for index in range(3):
        np.testing.assert_array_equal(pairs.real.read(index), pairs.recon.read(index))


def test_missing_partners_are_listed_up_to_ten(tmp_path, emoji):
    real = save(tmp_path / "real", [f"{i}.png" for i in range(14)], emoji[:14])
    recon = save(tmp_path / "recon", ["0.png", "1.png", "extra.png"], emoji[:3])
    with pytest.raises(PairingError) as caught:
        pair_images(real, recon)
    message = str(caught.value)
    assert f"12 without a partner in {tmp_path / 'recon'}: 10, 11, 12, 13, 2, 3" in message
    assert "6, 7, ...; 1 without" in message
    assert f"1 without a partner in {tmp_path / 'real'}: extra." in message
    assert caught.value.exit_code == 3


def test_one_name_twice_is_refused(tmp_path, emoji):
    real = save(tmp_path / "real", ["1.png", "1.bmp"], emoji[:2])
    with pytest.raises(PairingError, match="several for 1"):
        pair_images(real, real)


def test_arrays_have_no_names_and_pair_by_index(tmp_path, emoji):
    np.savez(tmp_path / "x.npz", emoji[:4])
    np.savez(tmp_path / "y.npz", emoji[:3])
    x, y = (open_images(tmp_path / f"{name}.npz") for name in "xy")
    with pytest.raises(PairingError, match=r"x.npz have no names.*--pairing index"):
        pair_images(x, x)
    with pytest.raises(PairingError, match=r"got 4 in .*x.npz and 3 in"):
        pair_images(x, y, "index")
    assert pair_images(x, x, "index").names == ["0", "1", "2", "3"]


@pytest.fixture
def mixed(tmp_path, emoji):
    """Five pairs of two sizes, as sources and as lists of arrays."""
    images = [*emoji[:2], *emoji[2:5, :40, :35]]
    copies = [noisy(image, 5.0 + index, index) for index, image in enumerate(images)]
    names = [f"{index}.png" for index in (0, 3, 1, 4, 2)]
    real, recon = (
        save(tmp_path / name, names, pictures)
        for name, pictures in (("real", images), ("recon", copies))
    )
    order = [0, 2, 4, 1, 3]
    return real, recon, [images[i] for i in order], [copies[i] for i in order]


def test_streaming_over_sizes_equals_one_pair_at_a_time(mixed, backbone):
    real, recon, images, copies = mixed
    distance = perceptual_distance(weights=backbone("alex")[1])
    result = reconstruction_metrics(
        real, recon, ("psnr", "ssim", "lpips"), perceptual=distance, batch_size=3
    )
    tensors = [
        (channels_first(x[None]), channels_first(y[None]))
        for x, y in zip(images, copies, strict=True)
    ]
    for score, function in ((result.psnr, psnr), (result.ssim, ssim), (result.lpips, distance)):
        expected = torch.cat([function(x, y) for x, y in tensors])
        np.testing.assert_allclose(score.per_pair, expected, rtol=1e-6)
        assert score.value == pytest.approx(expected.mean().item())
        assert score.standard_error == pytest.approx(expected.std().item() / 5**0.5)
    mse = torch.cat([mean_squared_error(x, y) for x, y in tensors]).mean().item()
    assert result.psnr_of_mean_mse == pytest.approx(10 * np.log10(255**2 / mse))
    assert result.psnr_of_mean_mse < result.psnr.value
    assert result.rfid is None


def test_only_a_batch_is_in_memory(emoji, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", emoji[:23])
    source = open_images(tmp_path / "x.npz")
    read, scored = [], []
    original = type(source).read
    monkeypatch.setattr(type(source), "read", lambda self, i: read.append(i) or original(self, i))

    def progress(count):
        scored.append(count)
        assert len(read) <= sum(scored) + 2 * 2 * 5  # the batch scored and the one read ahead

    reconstruction_metrics(source, source, ("psnr",), "index", batch_size=5, progress=progress)
    assert scored == [10, 10, 10, 10, 6]
    assert sorted(read) == sorted([*range(23)] * 2)


def test_rfid_is_the_distance_of_the_paired_sets(tmp_path, emoji):
    real = save(tmp_path / "real", [f"{i}.png" for i in range(9)], emoji[:9])
    recon = save(tmp_path / "recon", [f"{i}.png" for i in range(9)], noisy(emoji[:9]))
    extractor = get_extractor("efflite0")
    result = reconstruction_metrics(real, recon, ("rfid",), extractor=extractor)
    expected = frechet_distance_from_features(
        *(extract_features(source, extractor) for source in (recon, real))
    )
    assert result.rfid.value == pytest.approx(expected.value)
    assert result.rfid_name == "rfd_efflite0"
    assert (result.psnr, result.ssim, result.lpips) == (None, None, None)
    assert [remark.code for remark in result.remarks] == ["RANK_DEFICIENT"]


def test_every_convention_is_named(mixed, backbone):
    real, recon, *_ = mixed
    distance = perceptual_distance(weights=backbone("alex")[1])
    result = reconstruction_metrics(
        real, recon, perceptual=distance, extractor=get_extractor("efflite0"), ssim_window="uniform"
    )
    report = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert report["pairing"] == "name"
    assert "bytes as stored" in report["quantiser"]
    metrics = report["metrics"]
    assert metrics["psnr"]["averaging"] == "mean of per-pair PSNR"
    assert (metrics["psnr"]["peak"], metrics["psnr"]["cap_db"]) == (255.0, 100.0)
    assert metrics["psnr"]["of_mean_mse"] == result.psnr_of_mean_mse
    assert metrics["ssim"]["window"] == "uniform 7x7, sample variances"
    assert metrics["ssim"]["data_range"] == 255.0
    assert (metrics["lpips"]["net"], metrics["lpips"]["version"]) == ("alex", "0.1")
    assert metrics["rfd_efflite0"]["extractor"] == "efflite0"
    assert metrics["rfd_efflite0"]["n_a"] == metrics["psnr"]["n_pairs"] == 5
    assert {w["code"] for w in report["warnings"]} >= {"OTHER_WEIGHTS", "RANK_DEFICIENT"}
    table = result.to_text().splitlines()
    assert [line.split()[0] for line in table[1:]] == [
        "psnr",
        "of",
        "ssim",
        "lpips",
        "rfd_efflite0",
    ]


def test_equal_pairs_are_remarked_upon(mixed):
    real, *_ = mixed
    result = reconstruction_metrics(real, real, ("psnr",))
    assert result.psnr.value == result.psnr_of_mean_mse == 100.0
    (remark,) = (r for r in result.remarks if r.code == "EQUAL_PAIRS")
    assert "5 of 5 pairs" in remark.message


def test_one_pair_has_no_standard_error_but_a_reason(tmp_path, emoji):
    real = save(tmp_path / "real", ["1.png"], emoji[:1])
    score = reconstruction_metrics(real, real, ("ssim",)).to_dict()["metrics"]["ssim"]
    assert score["se"] is None
    assert score["se_reason"] == "one pair has no spread"
    with pytest.raises(BadInput, match="at least 2 pairs for rfid; got 1"):
        reconstruction_metrics(real, real, ("rfid",), extractor=get_extractor("efflite0"))


def test_sizes_of_a_pair_must_agree(tmp_path, emoji):
    real = save(tmp_path / "real", ["a.png", "b.png"], emoji[:2])
    recon = save(tmp_path / "recon", ["a.png", "b.png"], [emoji[0], emoji[1, :50, :60]])
    with pytest.raises(BadInput, match="got 72x72 and 60x50 for b"):
        reconstruction_metrics(real, recon, ("psnr",))


def test_no_metric_is_refused(mixed):
    with pytest.raises(UsageError, match="got none"):
        reconstruction_metrics(*mixed[:2], ())


def test_missing_weights_are_told_before_an_image_is_read(mixed, tmp_path, monkeypatch):
    real, recon, *_ = mixed
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("GENMETRICS_OFFLINE", "1")
    monkeypatch.setattr(type(real), "read", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(WeightsUnavailable, match="LPIPS alex"):
        reconstruction_metrics(real, recon)
