import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from genmetrics import BadInput, GaussianStats, StatsAccumulator, UsageError
from genmetrics.features.stats_files import load_all_stats, load_stats, save_stats


def stats(d=3, n=11, seed=0, **meta):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 2
    return replace(StatsAccumulator(d).update(x).finalize(), meta=meta)


def assert_equal(found, expected):
    assert found.n == expected.n
    assert found.mean.dtype == found.cov.dtype == torch.float64
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.cov, expected.cov)


def test_statistics_return_as_they_were_saved(tmp_path):
    outputs = {
        "pool3": stats(3, extractor="inception", num_parts=2),
        "spatial": replace(stats(5, seed=1), n=None),
    }
    save_stats(tmp_path / "x.npz", outputs)
    found = load_all_stats(str(tmp_path / "x.npz"))
    assert list(found) == ["pool3", "spatial"]
    for name, expected in outputs.items():
        assert_equal(found[name], expected)
        assert found[name].meta == expected.meta
    assert_equal(load_stats(tmp_path / "x.npz"), outputs["pool3"])
    assert_equal(load_stats(tmp_path / "x.npz", "spatial"), outputs["spatial"])
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def test_a_file_needs_no_pickle(tmp_path):
    save_stats(tmp_path / "x.npz", {"pool3": stats()})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"genmetrics", "pool3/n", "pool3/mean", "pool3/cov"}
        assert json.loads(str(archive["genmetrics"]))["schema"] == "genmetrics-stats/1"


def test_a_numpy_that_knows_no_option_writes_the_statistics_alone(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(np, "savez", lambda file, **arrays: given.extend(arrays))
    save_stats(tmp_path / "x.npz", {"pool3": stats()})
    assert sorted(given) == ["genmetrics", "pool3/cov", "pool3/mean", "pool3/n"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    save_stats(tmp_path / "x.npz", {"pool3": stats()})

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="no space left"):
        save_stats(tmp_path / "x.npz", {"pool3": stats(seed=1)})
    assert_equal(load_stats(tmp_path / "x.npz"), stats())
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.npz"):
        save_stats(tmp_path / "x.npy", {"pool3": stats()})


def test_adm_references_hold_two_outputs_beside_images(tmp_path):
    pool, spatial = stats(3), stats(5, seed=1)
    np.savez(
        tmp_path / "x.npz",
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(2, int),
        mu=pool.mean.numpy().astype(np.float32),
        sigma=pool.cov.numpy(),
        mu_s=spatial.mean.numpy().astype(np.float32),
        sigma_s=spatial.cov.numpy(),
    )
    found = load_all_stats(tmp_path / "x.npz")
    for name, expected in (("pool3", pool), ("spatial", spatial)):
        mean = expected.mean.float().double()  # as precise as the file
        assert_equal(found[name], GaussianStats(None, mean, expected.cov))
        assert found[name].meta == {"format": "adm", "source": "x.npz"}


def test_images_of_an_adm_reference_are_not_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", np.array([{}]), mu=np.zeros(2), sigma=np.eye(2))
    assert load_stats(tmp_path / "x.npz").dim == 2  # loading the objects would have raised


def test_mu_and_sigma_alone_are_pool3_of_unknown_count(tmp_path):
    expected = replace(stats(), n=None)
    np.savez(tmp_path / "x.npz", mu=expected.mean.numpy(), sigma=expected.cov.numpy())
    assert_equal(load_stats(tmp_path / "x.npz"), expected)
    with pytest.raises(BadInput, match=r"output spatial in .*x\.npz; got pool3"):
        load_stats(tmp_path / "x.npz", "spatial")


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_torch_fidelity_dictionaries_are_read(tmp_path, kind, as_tensor):
    mean, cov = (a.numpy().astype(kind) for a in (stats().mean, stats().cov))
    state = {"mu": mean, "sigma": cov}
    torch.save(
        {k: torch.from_numpy(v) for k, v in state.items()} if as_tensor else state,
        tmp_path / "x.pt",
    )
    found = load_stats(tmp_path / "x.pt")
    assert found.n is None
    np.testing.assert_array_equal(found.mean, mean.astype(np.float64))
    np.testing.assert_array_equal(found.cov, cov.astype(np.float64))


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_torchmetrics_sums_become_statistics(tmp_path, suffix):
    x = torch.randn(13, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    state = {
        "real_features_sum": x.sum(0),
        "real_features_cov_sum": x.T @ x,
        "real_features_num_samples": torch.tensor(13),
        "fake_features_sum": torch.zeros(3),
    }
    torch.save(state, tmp_path / f"x{suffix}")
    found = load_stats(tmp_path / f"x{suffix}")
    assert found.n == 13
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-10)
    assert found.meta["format"] == "torchmetrics"


class RunsCode:
    def __reduce__(self):
        return (sys.settrace, (print,))


@pytest.mark.parametrize("name", ["x.pt", "x.pth"])
def test_code_in_a_torch_file_is_not_run(tmp_path, name):
    torch.save({"mu": RunsCode(), "sigma": torch.eye(2)}, tmp_path / name)
    before = sys.gettrace()
    with pytest.raises(BadInput, match=rf"arrays and no code in .*{name}; got .*settrace") as error:
        load_stats(tmp_path / name)
    assert sys.gettrace() is before
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.pkl", "x.PICKLE"])
def test_plain_pickles_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"mu": 1}))
    with pytest.raises(BadInput, match=r"without pickled code.*np\.savez"):
        load_stats(tmp_path / name)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="which is none"):
        load_stats(tmp_path / "x.npz")
    (tmp_path / "x.csv").write_text("1")
    with pytest.raises(BadInput, match=r"in \.npz, \.pt or \.pth; got .*x\.csv"):
        load_stats(tmp_path / "x.csv")


EYE = np.eye(2)
NAN = np.array([0.0, np.nan])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mu": np.zeros(2)}, "mu and sigma in .*; got mu"),
        ({"arr_0": np.zeros(2)}, "got arr_0"),
        ({"mu": np.zeros(3), "sigma": EYE}, r"float64 \(3,\) and float64 \(2, 2\)"),
        ({"mu": np.zeros((1, 2)), "sigma": EYE}, r"float64 \(1, 2\)"),
        ({"mu": np.zeros(2, int), "sigma": EYE}, "got int64"),
        ({"mu": np.array([{}, {}]), "sigma": EYE}, "allow_pickle=False"),
        ({"mu": NAN, "sigma": EYE}, "finite mean and covariance"),
        ({"mu": np.zeros(2), "sigma": np.array([[1, 0.5], [0, 1]])}, "symmetric covariance"),
        ({"genmetrics": np.array("{")}, "whole genmetrics statistics"),
        ({"genmetrics": np.array('{"schema": "genmetrics-stats/9"}')}, "got genmetrics-stats/9"),
        (
            {"genmetrics": np.array('{"schema": "genmetrics-stats/1", "outputs": {"p": {}}}')},
            "p/mean",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_unsuitable_npz_is_refused_by_name(tmp_path, content, message):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(BadInput, match=message) as error:
        load_stats(tmp_path / "x.npz")
    assert str(tmp_path / "x.npz") in str(error.value)


def test_too_few_samples_are_refused_by_name(tmp_path):
    header = '{"schema": "genmetrics-stats/1", "outputs": {"pool3": {}}}'
    arrays = {"pool3/mean": np.zeros(2), "pool3/cov": EYE, "pool3/n": np.array(1)}
    np.savez(tmp_path / "x.npz", genmetrics=np.array(header), **arrays)
    with pytest.raises(BadInput, match=r"at least 2 samples.*x\.npz"):
        load_stats(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2)}, "got weight"),
        ([torch.zeros(2)], "got list"),
        (
            {
                "real_features_sum": torch.zeros(2),
                "real_features_cov_sum": torch.eye(2),
                "real_features_num_samples": torch.tensor(1),
            },
            "sums of at least 2 samples",
        ),
        (
            {
                "real_features_sum": torch.zeros(2),
                "real_features_cov_sum": torch.eye(3),
                "real_features_num_samples": torch.tensor(4),
            },
            r"\(2,\) and float64 \(3, 3\)",
        ),
    ],
    ids=["weights", "list", "one sample", "shapes"],
)
def test_unsuitable_torch_files_are_refused(tmp_path, state, message):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(BadInput, match=message):
        load_stats(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.npz", "x.pt"])
@pytest.mark.parametrize("keep", [0, 40, 300])
def test_torn_files_are_refused(tmp_path, name, keep):
    save_stats(tmp_path / "x.npz", {"pool3": stats()})
    torch.save({"mu": torch.zeros(2), "sigma": torch.eye(2)}, tmp_path / "x.pt")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(BadInput, match=name.replace(".", r"\.")):
        load_stats(tmp_path / name)
