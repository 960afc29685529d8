"""What a first try in Python passes: taken as meant, or refused in a sentence that says what to do.

Scripts run in processes of their own, since the type checker of this run would speak first.
"""

from tests.scripts import run_script

PRELUDE = """
import numpy as np
import torch
import genmetrics
from genmetrics import GenmetricsError


def told(*calls):
    for call in calls:
        try:
            print("taken:", call())
        except GenmetricsError as error:
            print(error)


"""


def lines_of(script, folder):
    run = run_script(PRELUDE + script, folder)
    assert run.stderr == ""
    return run.stdout.splitlines()


IMAGES = """
from genmetrics.networks.efflite0 import EffLite0Features
from genmetrics.checks import require_bytes
EffLite0Features.forward = lambda self, x: {"features": torch.zeros(len(x), 1280)}
extractor = genmetrics.get_extractor("efflite0")
stats = genmetrics.GaussianStats(9, torch.zeros(1280).double(), torch.eye(1280).double())
reference = genmetrics.Reference(".", None, {"features": stats})
evaluator = genmetrics.Evaluator(reference, extractor=extractor, metrics=("fid",))
floats = torch.rand(2, 3, 8, 9)
told(
    lambda: evaluator.update(floats),
    lambda: genmetrics.extract_features(floats, extractor),
    lambda: genmetrics.extract(floats.numpy(), extractor),
    lambda: extractor(floats),
    lambda: len(evaluator),
)
images = (255 * floats).to(torch.uint8)
for wrong in (
    images.movedim(1, -1), images.numpy(), images.movedim(1, -1).numpy(), images[0],
    floats[0].movedim(0, -1), images[:, :1], images.long(), images.numpy()[0].transpose(1, 2, 0),
):
    try:
        require_bytes(wrong)
    except GenmetricsError as error:
        advice = str(error).partition("Pass ")[2].partition(" if ")[0].rstrip(".")
        print(advice)
        made = eval(advice, {"images": wrong, "torch": torch})
        print(made.dtype, tuple(made.shape[1:]))
told(lambda: require_bytes(images[:, :2]), lambda: require_bytes([images]))
"""


def test_images_that_are_not_bytes_are_refused_with_what_makes_them_so(tmp_path):
    floats = (
        "Expected images as a uint8 tensor (b, 3, h, w); got float32 (2, 3, 8, 9). "
        "Pass (255 * images).round().clamp(0, 255).to(torch.uint8) if values are in [0, 1]."
    )
    bytes_of_8_by_9 = "torch.uint8 (3, 8, 9)"
    found = lines_of(IMAGES, tmp_path)
    assert found[:2] == [floats, floats]
    assert "a NumPy array, float32 (2, 3, 8, 9). Pass (255 * torch.from_numpy(images))" in found[2]
    assert found[3:5] == [floats, "taken: 0"]
    assert found[5:-2:2] == [
        "images.movedim(-1, 1)",
        "torch.from_numpy(images)",
        "torch.from_numpy(images).movedim(-1, 1)",
        "images[None]",
        "(255 * images[None].movedim(-1, 1)).round().clamp(0, 255).to(torch.uint8)",
        "images.expand(-1, 3, -1, -1)",
        "images.to(torch.uint8)",
        "torch.from_numpy(images)[None].movedim(-1, 1)",
    ]
    assert found[6:-2:2] == 8 * [bytes_of_8_by_9]
    assert found[-2].endswith("got uint8 (2, 2, 8, 9). Pass images of three channels.")
    assert found[-1].endswith("got a list. Pass one such tensor.")


PAIRS = """
from genmetrics import PerceptualDistance, psnr, ssim
x = torch.rand(4, 3, 16, 17)
lpips = PerceptualDistance("vgg", "0.1", "", torch.nn.Identity(), "cpu")
told(lambda: lpips(x, x), lambda: lpips(x.byte(), x[:1].byte()))
for score in (psnr, ssim):
    told(
        lambda: score(x, x[3:], data_range=1),
        lambda: score(x, x[..., :16], data_range=1),
        lambda: score(x[0], x[0], data_range=1),
        lambda: score(x, x.numpy(), data_range=1),
    )
"""


def test_images_without_a_partner_of_their_size_are_refused(tmp_path):
    floats, one, *found = lines_of(PAIRS, tmp_path)
    assert floats.startswith("Expected images as a uint8 tensor (b, 3, h, w); got float32")
    assert one == found[0]
    assert found[:4] == found[4:]
    pairs = "Expected a reconstruction for each image, of its size; got (4, 3, 16, 17) and"
    assert found[0] == f"{pairs} (1, 3, 16, 17). Pair them one to one."
    assert found[1] == f"{pairs} (4, 3, 16, 16). Pair them one to one."
    batch = "Expected images as a tensor (b, c, h, w); got"
    assert found[2] == f"{batch} float32 (3, 16, 17). Pass images[None]."
    array = "a NumPy array, float32 (4, 3, 16, 17). Pass torch.from_numpy(images)."
    assert found[3] == f"{batch} {array}"


FIRST_TRIES = """
from genmetrics import Evaluator, evaluate, extract_features
from genmetrics.networks.efflite0 import EffLite0Features
EffLite0Features.forward = lambda self, x: {"features": x.float().flatten(1)[:, :1280]}
for seed, folder in enumerate(("gen", "real")):
    genmetrics.write_npz(
        np.random.default_rng(seed).integers(0, 256, (6, 21, 21, 3), dtype=np.uint8),
        f"{folder}.npz", np.arange(6), count=6,
    )
report = evaluate("gen.npz", "real.npz", extractor="efflite0")
evaluator = Evaluator("real.npz", extractor="efflite0", metrics="fid,pr")
evaluator.update(torch.zeros(4, 3, 21, 21, dtype=torch.uint8))
told(
    lambda: list(report.scores),
    lambda: list(evaluator.result().scores),
    lambda: extract_features("gen.npz", genmetrics.get_extractor("efflite0")).shape,
    lambda: Evaluator("real", extractor="efflite0", metrics="fid"),
    lambda: evaluate(torch.zeros(4, 3, 21, 21), "real.npz", extractor="efflite0"),
    lambda: Evaluator([1, 2], extractor="efflite0"),
    lambda: Evaluator("real.npz", extractor="eflite0"),
    lambda: Evaluator("real.npz", extractor="efflite0", metrics="fit"),
)
try:
    report["fid"]
except KeyError as error:
    print(error.args[0])
"""


def test_paths_names_and_one_text_of_metrics_are_taken(tmp_path):
    found = lines_of(FIRST_TRIES, tmp_path)
    assert found[:3] == [
        "taken: ['fd_efflite0']",
        "taken: ['fd_efflite0', 'precision_efflite0', 'recall_efflite0']",
        "taken: torch.Size([6, 1280])",
    ]
    for line, words in zip(
        found[3:],
        [
            "a .zip or an .npz file; got real, which does not exist",
            "as a uint8 tensor (b, 3, h, w); got float32 (4, 3, 21, 21). Pass (255 * images)",
            "Expected a path of images, or open_images(path); got a list. Write images",
            "got 'eflite0'. Did you mean efflite0?",
            "got 'fit'. Did you mean fid?",
            "Expected a score among fd_efflite0; got fid. Scores are named after their network.",
        ],
        strict=True,
    ):
        assert words in line


FEATURES = """
from genmetrics import (
    StatsAccumulator, cmmd, frechet_distance_from_features, inception_score, kid,
    precision_recall, project,
)
x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
x.setflags(write=False)
y = np.asfortranarray(x[::-2] + 1)
scores = (
    frechet_distance_from_features,
    precision_recall,
    lambda x, y: kid(x, y, subset_size=3),
    cmmd,
    lambda x, y: inception_score(x),
    lambda x, y: project(x, method="pca").tolist(),
    lambda x, y: StatsAccumulator(4).update(x).finalize().mean.tolist(),
)
for score in scores:
    print(score(x, y) == score(torch.tensor(x), torch.tensor(y)))
for score in scores[:4]:
    told(lambda: score(x, y[:, 1:]))
for score in scores:
    told(lambda: score(x.astype(int), y))
told(lambda: kid(x, y))
"""


def test_features_of_numpy_score_as_tensors_and_other_kinds_are_refused(tmp_path):
    found = lines_of(FEATURES, tmp_path)
    assert found[:7] == 7 * ["True"]
    widths = "Expected two sets of features of one dimension; got 4 and 3. Use one extractor"
    assert [line.startswith(widths) for line in found[7:11]] == 4 * [True]
    for line in found[11:18]:
        assert "as a tensor or array of floats (n, d); got a NumPy array, int64 (9, 4)." in line
    assert found[18].startswith("Expected at least subset_size=1000 samples in each set; got 9")
    assert "Lower subset_size" in found[18]


LATENTS = """
from genmetrics import jacobian_spectrum


def flow(x):
    return 2 * x


told(
    lambda: jacobian_spectrum(flow, torch.zeros(4)),
    lambda: jacobian_spectrum(flow, np.zeros((2, 4))),
    lambda: jacobian_spectrum(flow, torch.zeros(4)[None]).sigma_max.tolist(),
)
"""


def test_one_sample_and_arrays_are_no_batch_of_latents(tmp_path):
    batch = "Expected samples as a tensor (b, ...), one in each row; got"
    advice = "Pass x[None] for one sample, torch.from_numpy(x) for an array."
    assert lines_of(LATENTS, tmp_path) == [
        f"{batch} float32 (4,). {advice}",
        f"{batch} a NumPy array, float64 (2, 4). {advice}",
        "taken: [2.0]",
    ]


NETWORKS = """
from genmetrics import Evaluator, evaluate, extract, extract_features
images = torch.zeros(4, 3, 21, 21, dtype=torch.uint8)
genmetrics.write_npz(images.movedim(1, -1).numpy(), "x.npz", count=4)
for wrong in (torch.nn.Identity(), len):
    told(
        lambda: extract_features(images, wrong),
        lambda: extract(images, wrong),
        lambda: evaluate("x.npz", "x.npz", extractor=wrong),
        lambda: Evaluator("x.npz", extractor=wrong),
    )
told(
    lambda: extract_features(images, "efflite0").shape,
    lambda: genmetrics.Extractor.of(len, name="mine"),
)
"""


def test_a_bare_network_is_refused_with_how_it_is_wrapped(tmp_path):
    found = lines_of(NETWORKS, tmp_path)
    wanted = "Expected an Extractor or the name of one; got"
    wrap = "a Identity. Wrap it: Extractor.of(network, name='mine')."
    assert found[:4] == 4 * [f"{wanted} {wrap}"]
    assert found[4:8] == 4 * [f"{wanted} a builtin_function_or_method. Pass one such."]
    assert found[8] == "taken: torch.Size([4, 1280])"
    assert found[9].startswith("Expected a network (nn.Module); got a builtin_function_or_method.")


FRECHET = """
x = torch.zeros(9, 4)
told(
    lambda: genmetrics.frechet_distance(x, x),
    lambda: genmetrics.frechet_distance(
        genmetrics.StatsAccumulator(4).update(x).finalize(), x.numpy()
    ),
    lambda: genmetrics.frechet_distance("a.npz", "b.npz"),
)
"""


def test_features_in_place_of_their_gaussians_are_told_which_function_takes_them(tmp_path):
    tensor, array, path = lines_of(FRECHET, tmp_path)
    wanted = "Expected Gaussians (GaussianStats); got"
    advice = "Use frechet_distance_from_features for features"
    assert tensor.startswith(f"{wanted} float32 (9, 4). {advice}")
    assert array.startswith(f"{wanted} a NumPy array, float32 (9, 4). {advice}")
    assert path.startswith(f"{wanted} a str. ")


PAIRS_IN_MEMORY = """
from genmetrics import reconstruction_metrics
x = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).to(torch.uint8)
genmetrics.write_npz(x, "x.npz")
told(
    lambda: reconstruction_metrics(x, x, ("psnr",)).psnr.value,
    lambda: reconstruction_metrics(x.movedim(1, -1).numpy(), "x.npz", "psnr,ssim").ssim.value,
    lambda: reconstruction_metrics(x, x[:1], ("psnr",)),
    lambda: reconstruction_metrics(x, x, ("psnr",), "name"),
    lambda: reconstruction_metrics(x, x, "fid"),
)
"""


def test_reconstructions_in_memory_are_paired_by_their_order(tmp_path):
    psnr, ssim, unequal, names, metric = lines_of(PAIRS_IN_MEMORY, tmp_path)
    assert (psnr, ssim) == ("taken: 100.0", "taken: 1.0")
    assert "as many reconstructions as images; got 2 in memory and 1 in memory" in unequal
    assert "the images of memory have no names" in names
    assert metric.endswith("got fid.")


METRICS = """
import inspect
from genmetrics import Evaluator, Extractor, evaluate, extract
network = torch.nn.Sequential(torch.nn.AvgPool2d(7), torch.nn.Flatten())
mine = Extractor.of(network, name="mine", float_range=(0.0, 1.0), side=21)
x = torch.randint(0, 256, (9, 3, 21, 21), dtype=torch.uint8, generator=torch.manual_seed(0))
two = genmetrics.choose_protocol(None, "mine", neighbours=2)
evaluator = Evaluator(x, extractor=mine, metrics="fid,pr")
evaluator.update(x[:7])
told(
    lambda: list(evaluate(x[:7], x, extractor=mine).scores),
    lambda: evaluate(x[:7], x, extractor=mine, metrics="fid,pr").scores
    == evaluator.result().scores,
    lambda: evaluate(x[:7], x, extractor=mine, metrics=["pr"], protocol=two).protocol.neighbours,
    lambda: evaluate(x[:7], x, extractor=mine, metrics="fit"),
)
shared = inspect.signature(extract).parameters.keys() - {"source"}
told(lambda: shared - inspect.signature(evaluate).parameters.keys())
"""


def test_evaluate_takes_metrics_as_evaluator_does_and_names_what_extract_takes(tmp_path):
    assert lines_of(METRICS, tmp_path) == [
        "taken: ['fd_mine']",
        "taken: True",
        "taken: 2",
        "Expected metrics that exist; got 'fit'. Did you mean fid?",
        "taken: set()",
    ]


PROBES = """
from genmetrics import ProbeData, knn_accuracy, linear_probe, logistic_probe, probe_depths
from genmetrics import tuned_logistic_probe
x = torch.randn(24, 5, generator=torch.manual_seed(0))
y = (x[:, 0] > 0).long()
forms = (
    (x.numpy(), y.numpy()), (x, y.tolist()), (x, y.int()), (x, y.bool()),
    (x.numpy(), y.bool().numpy()),
)


def scores(x, y, data):
    tuned = tuned_logistic_probe(x, y)
    return (
        logistic_probe(x, y).weight.tolist(), tuned.l2, tuned.probe.accuracy(x, y),
        tuned.probe.balanced_accuracy(x, y), tuned.probe.predict(x).tolist(),
        linear_probe(data, data, "mimflow-tools", epochs=2).top1.mean,
        probe_depths({"a": data}, {"a": data}, "mimflow-tools", epochs=2)["a"].top1.mean,
        knn_accuracy(data, data, k=3).top1,
    )


wanted = scores(x, y, ProbeData(x, y))
for form in forms:
    print(scores(*form, form) == scores(*form, ProbeData(*form)) == wanted)
told(lambda: torch.equal(ProbeData(x.reshape(24, 1, 5).numpy(), y.tolist()).rows(), x))
for wrong in ((x.tolist(), y), (x.long(), y), (x[:, 0], y)):
    told(lambda: ProbeData(*wrong), lambda: logistic_probe(*wrong))
for wrong in ((x, y.float()), (x, y[:, None]), (x, "cat"), (x, [[1], [2, 3]]), (x, y[:7])):
    told(lambda: ProbeData(*wrong), lambda: logistic_probe(*wrong))
for wrong in (x, (x,), "train.npz"):
    told(
        lambda: linear_probe(wrong, (x, y)),
        lambda: linear_probe((x, y), wrong),
        lambda: knn_accuracy(wrong, (x, y)),
    )
"""


def test_probes_take_arrays_lists_and_pairs_and_refuse_other_kinds(tmp_path):
    found = lines_of(PROBES, tmp_path)
    assert found[:6] == [*5 * ["True"], "taken: True"]
    data, direct = found[6:12:2], found[7:12:2]
    kinds = ("a list", "int64 (24, 5)", "float32 (24,)")
    for line, kind in zip(data, kinds, strict=True):
        floats = "as a tensor or array of floats (n, d) or (n, t, c);"
        assert line == f"Expected features {floats} got {kind}. Pass one row per image."
    for line, kind in zip(direct, kinds, strict=True):
        assert f"as a tensor or array of floats (n, d); got {kind}." in line
    for number, kind in enumerate(("float32 (24,)", "int64 (24, 1)", "a str", "a list")):
        wanted = f"Expected labels as whole numbers (n,); got {kind}. Pass one per row."
        assert found[12 + 2 * number : 14 + 2 * number] == [wanted, wanted]
    unequal = "Expected one label per row; got 7 labels for 24 rows."
    assert found[20:22] == [unequal, unequal]
    for number, kind in enumerate(("float32 (24, 5)", "a tuple", "a str")):
        train, val, neighbours = found[22 + 3 * number : 25 + 3 * number]
        assert train == neighbours
        assert train == (
            f"Expected the training set as ProbeData(features, labels), or a pair of them; got "
            f"{kind}. Read files with load_probe_file."
        )
        assert val == train.replace("training", "validation")


STATISTICS = """
from genmetrics import GaussianStats, frechet_distance
mean, cov = torch.arange(3.0), torch.tensor([[3.0, 1, 0], [1, 2, 0], [0, 0, 1]])
mapped = cov.double().numpy()
mapped.flags.writeable = False
other = GaussianStats(9, 2 * mean.double(), 3 * cov.double())
wanted = frechet_distance(GaussianStats(9, mean.double(), cov.double()), other)
for given in (
    (mean, cov), (mean.numpy(), cov.numpy()), (mean.double().numpy(), mapped), (mean.double(), cov)
):
    stats = GaussianStats(9, *given)
    print(frechet_distance(stats, other) == wanted, stats.mean.dtype, stats.cov.dtype)
told(
    lambda: GaussianStats(9, mean, cov[:2, :2]),
    lambda: GaussianStats(9, mean, cov[0]),
    lambda: GaussianStats(9, mean[None], cov),
)
"""


def test_statistics_may_be_arrays_and_float32_of_shapes_that_fit(tmp_path):
    *found, one, two, three = lines_of(STATISTICS, tmp_path)
    assert found == 4 * ["True torch.float64 torch.float64"]
    wanted = "Expected a mean (d,) and a covariance (d, d); got"
    assert one == f"{wanted} (3,) and (2, 2). Take both of one file."
    assert two == f"{wanted} (3,) and (3,). Take both of one file."
    assert three == f"{wanted} (1, 3) and (3, 3). Take both of one file."


WORDS = """
from genmetrics import (
    Jacobian, ProbeData, jacobian_spectrum, kid, open_images, perceptual_distance, project,
    reconstruction_metrics, ssim,
)
x = torch.randint(0, 256, (2, 3, 16, 17), dtype=torch.uint8, generator=torch.manual_seed(0))
rows = torch.randn(20, 5)
genmetrics.write_npz(x, "x.npz")
told(
    lambda: ssim(x, x, window="Gaussian"),
    lambda: reconstruction_metrics(x, x, "psnr", ssim_window="Gaussian"),
    lambda: reconstruction_metrics(x, x, "psnr", pairing="order"),
    lambda: ProbeData(rows.reshape(4, 5, 5), [0, 1, 2, 3], "cls"),
    lambda: ProbeData(rows, 20 * [0], "none"),
    lambda: project(rows, method="tsne"),
    lambda: kid(rows, rows, subset_size=5, mode="foo"),
    lambda: jacobian_spectrum(torch.tanh, rows, method="lanczos"),
    lambda: jacobian_spectrum(torch.tanh, rows, smin="foo"),
    lambda: jacobian_spectrum(torch.tanh, rows, smin="exact"),
    lambda: jacobian_spectrum(torch.tanh, rows, jvp="reverse"),
    lambda: Jacobian(torch.tanh, rows, jvp="reverse"),
    lambda: perceptual_distance("resnet"),
    lambda: perceptual_distance(version=0.1),
    lambda: open_images("x.npz", on_bad_image="ignore"),
)
"""


def test_words_that_name_no_choice_are_refused_by_every_function(tmp_path):
    jvp = "jvp 'forward' or 'differences'; got 'reverse'. Choose one of these."
    pool = "pool 'mean', 'max', 'flatten' or 'first'; got"
    smin = "smin 'auto', 'inverse', 'triangular' or 'cg'; got"
    window = "window 'gaussian' or 'uniform'; got 'Gaussian'. Did you mean gaussian?"
    wanted = [
        window,
        f"ssim_{window}",
        "pairing 'name' or 'index'; got 'order'. Choose one of these.",
        f"{pool} 'cls'. Choose one of these.",
        f"{pool} 'none'. Choose one of these.",
        "method 'umap' or 'pca'; got 'tsne'. Choose one of these.",
        "mode 'subsets' or 'full'; got 'foo'. Choose one of these.",
        "method 'auto', 'exact', 'gkl' or 'power'; got 'lanczos'. Choose one of these.",
        f"{smin} 'foo'. Choose one of these.",
        f"{smin} 'exact'. Choose one of these.",
        jvp,
        jvp,
        "net 'alex', 'vgg' or 'squeeze'; got 'resnet'. Choose one of these.",
        "version '0.0' or '0.1'; got 0.1. Choose one of these.",
        "on_bad_image 'error' or 'skip'; got 'ignore'. Choose one of these.",
    ]
    assert lines_of(WORDS, tmp_path) == [f"Expected {each}" for each in wanted]


NAMED_PROTOCOLS = """
from genmetrics import Evaluator, evaluate
from genmetrics.networks.efflite0 import EffLite0Features
EffLite0Features.forward = lambda self, x: {"features": x.float().flatten(1)[:, :1280]}
x = torch.randint(0, 256, (9, 3, 21, 21), dtype=torch.uint8, generator=torch.manual_seed(0))


def scored(protocol, metrics=None):
    evaluator = Evaluator(x, extractor="efflite0", protocol=protocol, metrics=metrics)
    evaluator.update(x[:7])
    report = evaluate(x[:7], x, extractor="efflite0", protocol=protocol, metrics=metrics)
    return report.scores == evaluator.result().scores, list(report.scores)


told(lambda: scored("efflite0"), lambda: scored("efflite0", "fid"))
for wrong in ("adm", "eflite0", "", ("fid", "pr")):
    told(
        lambda: evaluate(x, x, extractor="efflite0", protocol=wrong),
        lambda: Evaluator(x, extractor="efflite0", protocol=wrong),
    )
"""


def test_a_protocol_may_be_given_by_its_name(tmp_path):
    whole, part, *found = lines_of(NAMED_PROTOCOLS, tmp_path)
    names = "'fd_efflite0', 'precision_efflite0', 'recall_efflite0'"
    assert whole == f"taken: (True, [{names}])"
    assert part == "taken: (True, ['fd_efflite0'])"
    assert found[::2] == found[1::2]
    network, unknown, empty, other = found[::2]
    assert network.startswith("Expected --extractor inception with --protocol adm; got efflite0.")
    there_are = "There are adm, efflite0, dinov2, cmmd."
    assert unknown == "Expected a protocol that exists; got 'eflite0'. Did you mean efflite0?"
    assert empty == f"Expected a protocol that exists; got ''. {there_are}"
    assert other == f"Expected a protocol or the name of one; got a tuple. {there_are}"
