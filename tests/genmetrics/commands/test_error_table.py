"""What the command line does in every situation of the table of errors, end to end."""

import json
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from genmetrics.cli import main
from genmetrics.networks.feature_network import FeatureNetwork

FAST = ["--extractor", "efflite0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def seven_numbers(tmp_path, monkeypatch):
    """Put a network of seven numbers in place of the real one, and hide all weights."""
    from genmetrics.networks import efflite0

    class Seven(FeatureNetwork):
        outputs = {"features": 7}  # noqa: RUF012  # read only
        preprocess_id, weights_sha256 = "none", "abc"
        classifier = torch.nn.Linear(7, 3)

        def __init__(self, weights=None):
            super().__init__()

        def forward(self, images):
            cells = torch.nn.functional.adaptive_avg_pool2d(images.float() / 64, (2, 2))
            return {"features": cells.flatten(1)[:, :7]}

    monkeypatch.setattr(efflite0, "EffLite0Features", Seven)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    for name in ("GENMETRICS_INCEPTION_WEIGHTS", "GENMETRICS_WEIGHTS", "GENMETRICS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return Seven


def pixels(n=11, height=5, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.fixture
def real(write_images):
    return write_images(pixels(13, seed=1), "real")


@pytest.fixture
def samples(write_images):
    return write_images(pixels(), "samples")


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        return tmp_path / "x.npz"

    return write


def fid(samples, real, *options):
    return ["fid", samples, real, *FAST, *options]


def run(capsys, argv):
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def refused(capsys, argv, code):
    """Run, and return the one sentence on stderr; stdout must be empty."""
    found, out, err = run(capsys, argv)
    assert (found, out) == (code, ""), err
    assert err.startswith("genmetrics: Expected ")
    assert err.count("\n") == 1
    return err


def report(capsys, argv, code=0):
    """Run, and return the JSON on stdout with the warnings on stderr."""
    found, out, err = run(capsys, [*argv, "--json", "-"])
    assert found == code, err
    document = json.loads(out)
    assert err == "".join(f"warning: {each['message']}\n" for each in document["warnings"])
    return document


def messages(document):
    return " ".join(each["message"] for each in document["warnings"])


def test_a_missing_path_is_named_with_the_closest_folder_that_exists(real, tmp_path, capsys):
    error = refused(capsys, fid(tmp_path / "no" / "where", real), 3)
    assert f"got {tmp_path / 'no' / 'where'}, which does not exist ({tmp_path} does)" in error


def test_an_empty_set_says_what_was_looked_for_and_found(real, tmp_path, write_images, capsys):
    write_images(pixels(2), "set/a/b")
    (tmp_path / "set/notes.txt").write_text("x")
    error = refused(capsys, fid(tmp_path / "set", real), 3)
    assert ".png .jpg" in error
    assert "got 1 .txt" in error
    assert "--recursive" in error


@pytest.mark.parametrize(
    ("content", "decoder"),
    [(b"no image", "UnidentifiedImageError"), (None, "truncated")],
    ids=["corrupt", "truncated"],
)
def test_a_bad_image_is_named_with_the_decoder_s_words(samples, real, capsys, content, decoder):
    Image.fromarray(pixels(1, 64, 64)[0]).save(samples / "3.png")
    (samples / "3.png").write_bytes(content or (samples / "3.png").read_bytes()[:-4000])
    error = refused(capsys, fid(samples, real), 3)
    assert "3.png" in error
    assert decoder in error


def test_skipping_bad_images_lists_them_lowers_n_and_exits_6(samples, real, capsys):
    (samples / "3.png").write_bytes(b"no image")
    document = report(capsys, fid(samples, real, "--on-bad-image", "skip"), 6)
    assert "left out of n: 3.png" in messages(document)
    assert document["metrics"]["fd_efflite0"]["n_samples"] == 10


def test_asking_to_skip_where_nothing_is_bad_exits_0(samples, real, capsys):
    report(capsys, fid(samples, real, "--on-bad-image", "skip"), 0)


def test_images_deeper_than_is_read_are_warned_of(samples, real, write_images, capsys):
    write_images(pixels(2), "samples/a/b")
    document = report(capsys, fid(samples, real))
    assert document["samples"]["n"] == 11
    assert "2 images in folders inside of sub-folders of" in messages(document)


def mix(folder):
    for index, size in ((1, (4, 3)), (2, (4, 3)), (5, (2, 9))):
        Image.new("RGB", size, (index, 0, 0)).save(folder / f"{index}.png")
    return "3 sizes (8 of 7x5, 2 of 4x3, 1 of 2x9)"


def test_mixed_sizes_are_read_with_a_histogram(samples, real, capsys):
    histogram = mix(samples)
    assert histogram in messages(report(capsys, fid(samples, real)))


def test_strict_size_refuses_mixed_sizes_with_a_histogram(samples, real, capsys):
    histogram = mix(samples)
    error = refused(capsys, fid(samples, real, "--strict-size"), 3)
    assert histogram in error
    assert "0.png and 1.png" in error


def test_other_modes_are_converted_with_counts(samples, real, capsys):
    pictures = [Image.fromarray(image) for image in pixels(4, seed=2)]
    for index, mode in enumerate(("L", "P", "L", "RGBA")):
        pictures[index].convert(mode).save(samples / f"{index}.png")
    told = messages(report(capsys, fid(samples, real)))
    assert "3 of 11 images" in told
    assert "2 grey, 1 palette" in told
    assert "1 of 11 images" in told
    assert "transparency, which was dropped" in told


def write_16_bits(folder):
    levels = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800
    Image.fromarray(levels).save(folder / "0.png")

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)
    rows = zlib.compress(5 * (b"\0" + 7 * b"\x12\xf4\x56\x78\x9a\xbc"))
    (folder / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kept", [0, 1], ids=["grey", "colour"])
def test_sixteen_bits_are_refused_with_the_flag(samples, real, capsys, kept):
    write_16_bits(samples)
    (samples / f"{1 - kept}.png").unlink()
    error = refused(capsys, fid(samples, real), 3)
    assert f"{kept}.png" in error
    assert "--allow-16bit" in error


def test_sixteen_bits_are_kept_to_eight_when_allowed(samples, real, capsys):
    write_16_bits(samples)
    told = messages(report(capsys, fid(samples, real, "--allow-16bit")))
    assert "2 of 11 images" in told
    assert "16 bits per channel, of which the upper 8 were kept" in told


def test_sixteen_bits_are_refused_though_features_with_the_flag_are_cached(
    samples, real, tmp_path, capsys
):
    write_16_bits(samples)
    cached = fid(samples, real, "--cache", tmp_path / "cache")
    for _ in range(2):
        assert "--allow-16bit" in refused(capsys, cached, 3)
        code, _, told = run(capsys, [*cached, "--allow-16bit"])
        assert code == 0
        assert "16 bits per channel, of which the upper 8 were kept" in told
    assert "11 of 11 images from the cache" in told


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"images": pixels(2), "y": np.arange(2)},
            ["key arr_0", "images uint8 (2, 5, 7, 3), y int64 (2,)"],
        ),
        ({"arr_0": pixels(2).astype(np.int32)}, ["uint8", "got int32 (2, 5, 7, 3)"]),
        ({"arr_0": pixels(2).astype(np.int64)}, ["got int64", "Save images.astype(np.uint8)"]),
        ({"arr_0": pixels(2)[..., :1]}, ["(n, h, w, 3)", "got uint8 (2, 5, 7, 1)"]),
        ({"arr_0": pixels(2).transpose(0, 2, 3, 1)}, ["images.transpose(0, 2, 3, 1)"]),
        ({"arr_0": pixels(2) / 255}, ["got float64", "--float-range 0,1 or --float-range -1,1"]),
        ({"arr_0": np.array([{}, {}], dtype=object)}, ["allow_pickle=False"]),
    ],
    ids=["no key", "dtype", "int64", "shape", "axes", "floats", "objects"],
)
def test_an_unsuitable_npz_says_what_it_has(real, npz, capsys, arrays, said):
    error = refused(capsys, fid(npz(**arrays), real), 3)
    assert all(words in error for words in said)


READERS = {
    "fid": ["fid", "x.npz", "x.npz", *FAST],
    "probe": ["probe", "--train", "x.npz", "--val", "x.npz"],
    "umap": ["umap", "x.npz", "--out", "x.png"],
    "stats": ["stats", "info", "x.npz"],
}


@pytest.mark.parametrize(
    "content",
    [b"junk", b"PK\3\4junk", np.lib.format.MAGIC_PREFIX + b"\1\0"],
    ids=["text", "torn", "array"],
)
@pytest.mark.parametrize("argv", READERS.values(), ids=READERS)
def test_a_file_that_is_no_archive_is_not_taken_for_a_pickle(
    tmp_path, monkeypatch, capsys, argv, content
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(content)
    error = refused(capsys, argv, 3)
    assert "arrays in x.npz; got no zip archive. Save it again with np.savez." in error


@pytest.mark.parametrize("argv", READERS.values(), ids=READERS)
def test_an_array_that_is_named_as_an_archive_is_told(tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros((3, 2)))
    error = refused(capsys, argv, 3)
    assert "Expected an .npz file" in error
    assert "np.savez" in error


@pytest.mark.parametrize("argv", READERS.values(), ids=READERS)
def test_a_damaged_archive_of_arrays_is_refused(tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    arrays = {"features": np.eye(40), "labels": np.arange(40), "mu": np.ones(40)}
    np.savez_compressed("x.npz", **arrays)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[60:160] = bytes(100)
    (tmp_path / "x.npz").write_bytes(content)
    assert "x.npz; got" in refused(capsys, argv, 3)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_floats_in_their_range_score_as_their_bytes(samples, real, npz, capsys, low):
    floats = npz(arr_0=(low + pixels() / 255 * (1 - low)).astype(np.float32))
    of_floats = report(capsys, fid(floats, real, "--float-range", f"{low:g},1"))
    assert of_floats["metrics"] == report(capsys, fid(samples, real))["metrics"]


def test_floats_read_by_too_wide_a_range_are_warned_of(real, npz, capsys):
    floats = npz(arr_0=pixels() / 255)
    told = run(capsys, fid(floats, real, "--float-range", "-1,1"))[2]
    assert "warning: All values of the 11 images looked at" in told
    assert "--float-range 0,1" in told


@pytest.mark.parametrize("value", [1.004, -0.2, np.nan, np.inf])
def test_floats_out_of_their_range_are_refused_by_image(real, npz, capsys, value):
    images = pixels() / 255
    images[4, 3, 2, 1] = value
    error = refused(capsys, fid(npz(arr_0=images), real, "--float-range", "0,1"), 3)
    assert f"got {value:g} in image 4" in error
    assert ("Clip them, or correct --float-range." in error) == np.isfinite(value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_float_that_is_no_number_is_not_to_be_clipped(real, npz, capsys, value):
    images = pixels() / 255
    images[4, 0, 0, 0], images[4, 3, 2, 1] = 1.004, value
    error = refused(capsys, fid(npz(arr_0=images), real, "--float-range", "0,1"), 3)
    assert f"got {value:g} in image 4. Find what made it, and make the images again." in error


@pytest.mark.parametrize("text", ["1,0", "0", "0,x", "0,inf", "nan,1"])
def test_a_float_range_that_is_none_exits_2(samples, real, capsys, text):
    code, out, err = run(capsys, fid(samples, real, "--float-range", text))
    assert (code, out) == (2, "")
    assert "argument --float-range" in err


def test_features_that_are_not_finite_are_named_by_row(
    samples, real, seven_numbers, monkeypatch, capsys
):
    def forward(self, images):
        rows = torch.zeros(len(images), 7)
        rows[[2, 5], 3] = torch.tensor([torch.nan, torch.inf])
        return {"features": rows}

    monkeypatch.setattr(seven_numbers, "forward", forward)
    error = refused(capsys, fid(samples, real), 5)
    assert "2 of 11 rows (2, 5)" in error


def test_statistics_that_are_not_finite_are_named_by_dimension(samples, npz, capsys):
    mean, cov = np.zeros(7), np.eye(7)
    mean[1], cov[4, 4] = np.nan, np.inf
    file = npz(mu=mean, sigma=cov)
    error = refused(capsys, ["stats", "info", file], 3)
    assert "2 of 7 dimensions (1, 4)" in error
    assert str(file) in error


def test_a_covariance_with_a_negative_eigenvalue_is_refused_with_it(npz, capsys):
    file = npz(mu=np.zeros(3), sigma=np.diag([5.0, -0.25, 1.0]))
    error = refused(capsys, ["stats", "info", file], 3)
    assert "got -0.25" in error
    assert str(file) in error


def test_an_unsymmetric_covariance_is_refused_with_its_entries(npz, capsys):
    cov = np.eye(3)
    cov[0, 2] = 0.5
    error = refused(capsys, ["stats", "info", npz(mu=np.zeros(3), sigma=cov)], 3)
    assert "got 0.5 at (0, 2) and 0 at (2, 0)" in error


def test_a_covariance_off_by_float32_rounding_is_read(npz, capsys):
    x = torch.randn(5, 31, generator=torch.Generator().manual_seed(0))
    rounded = (x.T @ x).numpy()  # of rank 5
    assert np.linalg.eigvalsh(rounded.astype(np.float64))[0] < 0
    code, _, _ = run(capsys, ["stats", "info", npz(mu=np.zeros(31), sigma=np.float64(rounded))])
    assert code == 0


def test_plain_images_above_one_per_cent_are_warned_of(samples, real, capsys):
    Image.new("RGB", (7, 5), "black").save(samples / "4.png")
    told = messages(report(capsys, fid(samples, real)))
    assert "1 of 11 images" in told
    assert "one colour throughout: 4.png" in told


def test_copies_above_one_per_cent_are_warned_of(samples, real, capsys):
    (samples / "9.png").write_bytes((samples / "2.png").read_bytes())
    told = messages(report(capsys, fid(samples, real)))
    assert f"1 of 11 images in {samples} are exact copies of others: 9.png = 2.png" in told


def test_one_copy_and_one_plain_image_in_a_hundred_are_not_warned_of(real, npz, capsys):
    images = pixels(100)
    images[70], images[30] = images[3], 9
    told = messages(report(capsys, fid(npz(arr_0=images), real)))
    assert "copies" not in told
    assert "one colour" not in told


def test_one_image_is_too_few(real, write_images, capsys):
    one = write_images(pixels(1), "one")
    assert "at least 2 images" in refused(capsys, fid(one, real), 3)


def test_no_more_images_than_dimensions_is_remarked(real, write_images, capsys):
    document = report(capsys, fid(write_images(pixels(7), "few"), real))
    assert "RANK_DEFICIENT" in [each["code"] for each in document["warnings"]]


def test_kid_of_too_few_images_names_the_flag(samples, real, capsys):
    argv = ["eval", samples, "--ref", real, "--metrics", "kid", *FAST]
    assert "--kid-subset-size of at most 11" in refused(capsys, argv, 2)


def test_kid_subsets_of_one_image_are_refused_before_any_is_decoded(samples, real, capsys):
    (samples / "3.png").write_bytes(b"no image")
    argv = ["eval", samples, "--ref", real, "--metrics", "kid", "--kid-subset-size", "1", *FAST]
    assert "--kid-subset-size of at least 2; got 1" in refused(capsys, argv, 2)


@pytest.mark.parametrize(
    ("metric", "n", "m", "said"),
    [
        ("pr", 3, 13, "at least 4 images in {samples} for pr; got 3."),
        ("pr", 11, 3, "at least 4 images in {real} for pr; got 3."),
        ("dc", 3, 13, "at least 4 images in {samples} for dc; got 3."),
        ("fd_inf", 19, 13, "at least 20 images in {samples} for fd_inf; got 19."),
    ],
)
def test_too_few_images_for_a_metric_are_found_before_any_is_decoded(
    write_images, capsys, metric, n, m, said
):
    samples, real = write_images(pixels(n), "few"), write_images(pixels(m, seed=1), "real")
    (samples / "1.png").write_bytes(b"no image")
    argv = ["eval", samples, "--ref", real, "--metrics", f"fid,{metric}", *FAST]
    error = refused(capsys, argv, 3)
    assert said.format(samples=samples, real=real) in error
    assert f"Add images, raise --limit, or leave {metric} out of --metrics." in error


def test_as_many_images_as_a_metric_needs_are_scored(write_images, capsys):
    samples, real = write_images(pixels(20), "some"), write_images(pixels(4, seed=1), "real")
    report(capsys, ["eval", samples, "--ref", real, "--metrics", "fd_inf,pr,dc", *FAST])
    report(capsys, ["eval", real, "--ref", samples, "--metrics", "pr,dc", *FAST])


def test_a_last_chunk_of_one_sample_costs_no_score_and_is_no_nan(real, npz, capsys):
    file = npz(arr_0=pixels(5001, 2, 2))
    argv = ["eval", file, "--ref", real, "--metrics", "fid,is", *FAST, "--batch-size", "1700"]
    document = report(capsys, argv)
    assert document["metrics"]["is_efflite0"]["num_chunks"] == 1
    assert "fd_efflite0" in document["metrics"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"preprocess_id": "other"}, "one preprocess_id"), ({"outputs": {"features": 6}}, "7 and 6")],
    ids=["preprocessing", "dimension"],
)
def test_statistics_of_another_network_are_refused(
    samples, real, tmp_path, seven_numbers, monkeypatch, capsys, changed, said
):
    built = [tmp_path / "a.npz", tmp_path / "b.npz"]
    assert run(capsys, ["stats", "build", real, built[0], *FAST])[0] == 0
    for name, value in changed.items():
        monkeypatch.setattr(seven_numbers, name, value)
    if "outputs" in changed:
        six = seven_numbers.forward
        monkeypatch.setattr(
            seven_numbers, "forward", lambda self, x: {"features": six(self, x)["features"][:, :6]}
        )
    assert run(capsys, ["stats", "build", samples, built[1], *FAST])[0] == 0
    assert said in refused(capsys, ["stats", "merge", *built, tmp_path / "out.npz"], 3)
    assert "Expected statistics of one" in refused(capsys, fid(samples, built[0]), 3)


def test_force_merges_in_spite_of_another_preprocessing(
    samples, real, tmp_path, seven_numbers, monkeypatch, capsys
):
    built = [tmp_path / "a.npz", tmp_path / "b.npz"]
    assert run(capsys, ["stats", "build", real, built[0], *FAST])[0] == 0
    monkeypatch.setattr(seven_numbers, "preprocess_id", "other")
    assert run(capsys, ["stats", "build", samples, built[1], *FAST])[0] == 0
    argv = ["stats", "merge", *built, tmp_path / "out.npz", "--force"]
    assert run(capsys, argv)[0] == 0


def test_missing_partners_are_listed_up_to_ten(tmp_path, write_images, capsys):
    originals, recon = write_images(pixels(13), "all"), write_images(pixels(1), "some")
    error = refused(capsys, ["recon", originals, recon, "--metrics", "psnr"], 3)
    assert "12 without a partner" in error
    assert "1, 10, 11, 12, 2, 3, 4, 5, 6, 7, ..." in error


def test_missing_weights_are_told_before_any_image_is_read(samples, real, tmp_path, capsys):
    (samples / "0.png").write_bytes(b"no image")
    error = refused(capsys, ["eval", samples, "--ref", real, "--device", "cpu"], 4)
    for words in (
        "weights-inception-2015-12-05-6726825d.pth",
        "sha256 6726825d",
        str(tmp_path / "nothing"),
        "GENMETRICS_INCEPTION_WEIGHTS",
        "https://",
    ):
        assert words in error


def test_an_absent_cuda_device_exits_2(samples, real, capsys):
    argv = ["fid", samples, real, "--extractor", "efflite0", "--device", "cuda:99"]
    assert "Choose --device cpu" in refused(capsys, argv, 2)


def test_auto_takes_the_cpu_where_there_is_no_cuda_and_the_report_says_so(
    samples, real, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    document = report(capsys, ["fid", samples, real, "--extractor", "efflite0"])
    assert document["environment"]["device"] == "cpu"


def test_a_terminal_is_told_that_auto_took_the_cpu(samples, real, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    argv = ["stats", "build", samples, tmp_path / "out.npz", "--extractor", "efflite0"]
    assert run(capsys, argv)[2].startswith("note: there is no CUDA device; this runs on the CPU\n")


FLOWS = """
import torch


class Fused:
    inverse = blocks = None

    def flow(self, z):
        q = z.reshape(len(z), 1, 2, 2)
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attention(q, q, q)[0].flatten(1)


class Steep:
    inverse = blocks = None

    def flow(self, z):
        return z @ torch.diag(torch.logspace(-9, 4, z.shape[1], dtype=z.dtype))
"""


@pytest.fixture
def flows(tmp_path, monkeypatch):
    (tmp_path / "flows_of_the_table.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    np.savez("latents.npz", four=rng.normal(size=(2, 4)), many=rng.normal(size=(2, 31)))

    def argv(flow, key, *options):
        model = f"flows_of_the_table:{flow}"
        return ["jacobian", "--model", model, "--latents", "latents.npz", "--key", key, *options]

    return argv


def test_attention_without_forward_mode_names_the_ways_out(flows, capsys):
    error = refused(capsys, flows("Fused", "four", "--method", "gkl"), 2)
    for words in ("forward-mode AD", "MATH", "finite differences", "method='exact'"):
        assert words in error


def test_no_convergence_is_a_result_that_says_so_and_strict_exits_5(flows, capsys):
    options = ["--method", "gkl", "--smin", "cg", "--max-products", "40", "--json", "-"]
    code, out, _ = run(capsys, flows("Steep", "many", *options))
    assert code == 0
    assert not any(each["converged"] for each in json.loads(out)["jacobian"]["samples"])
    code, again, err = run(capsys, flows("Steep", "many", *options, "--strict"))
    assert code == 5
    assert json.loads(again)["jacobian"]["samples"] == json.loads(out)["jacobian"]["samples"]
    assert err.splitlines()[-1].startswith("genmetrics: Expected 2 certified samples")


def test_the_same_images_are_not_merged_twice_without_force(samples, real, tmp_path, capsys):
    a, b, ab, out = (tmp_path / f"{name}.npz" for name in ("a", "b", "ab", "out"))
    for source, target in ((samples, a), (real, b)):
        assert run(capsys, ["stats", "build", source, target, *FAST])[0] == 0
    assert run(capsys, ["stats", "merge", a, b, ab])[0] == 0
    for parts in ([a, a], [ab, b]):
        error = refused(capsys, ["stats", "merge", *parts, out], 3)
        assert "disjoint sets; got the images of" in error
        assert "in part 1 and in part 2" in error
    assert run(capsys, ["stats", "merge", a, a, out, "--force"])[0] == 0


def test_merged_statistics_keep_the_provenance_of_all_parts(samples, real, tmp_path, capsys):
    files = {name: tmp_path / f"{name}.npz" for name in ("a", "b", "ab", "c", "abc")}
    Image.new("RGB", (7, 5), "red").save(samples / "more.png")
    for source, name in ((samples, "a"), (real, "b")):
        assert run(capsys, ["stats", "build", source, files[name], *FAST, "--split", name])[0] == 0
    (samples / "0.png").unlink()
    assert run(capsys, ["stats", "build", samples, files["c"], *FAST, "--split", "c"])[0] == 0
    for *parts, target in (("a", "b", "ab"), ("ab", "c", "abc")):
        argv = ["stats", "merge", *(files[name] for name in parts), files[target]]
        assert run(capsys, argv)[0] == 0
    code, out, _ = run(capsys, ["stats", "info", files["abc"], "--json", "-"])
    assert code == 0
    described = json.loads(out)["outputs"]["features"]
    assert [(part["split"], part["n"]) for part in described["parts"]] == [
        ("a", 12),
        ("b", 13),
        ("c", 11),
    ]
    assert len({part["source_fingerprint"] for part in described["parts"]}) == 3
    assert "parts" not in described["meta"]
