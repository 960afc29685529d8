"""``Extractor.of``: a network of the user's own as a feature network."""

import copy

import pytest
import torch

from genmetrics import Extractor, UsageError, check_extractor, extract_features
from genmetrics.features.extraction import extract


class Own(torch.nn.Module):
    """Five features of floats, and a batch norm that training would move."""

    def __init__(self, seed=0):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3)
        self.norm = torch.nn.BatchNorm2d(5)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))


def images_of(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 11, 9), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_features_are_the_network_s_of_floats_in_the_range(low, high):
    network, images = Own(), images_of(4)
    extractor = Extractor.of(network, name="mine", float_range=(low, high))
    with torch.no_grad():
        wanted = network.eval()(low + (high - low) * images / 255)
    torch.testing.assert_close(extract_features(images, extractor), wanted)
    assert dict(extractor.outputs) == {"features": 5}
    assert extractor.frechet_name == "fd_mine"
    assert check_extractor(extractor) == []


def test_floats_are_those_of_torchvision_to_the_last_bit():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    for (low, high), wanted in (
        ((0.0, 1.0), images / 255),
        ((-1.0, 1.0), (images / 255 - 0.5) / 0.5),
    ):
        pixels = Extractor.of(torch.nn.Flatten(), name="x", float_range=(low, high), side=16)
        assert torch.equal(pixels(images)["features"], wanted.flatten(1))


def test_without_a_range_the_network_gets_the_bytes():
    class Bytes(torch.nn.Module):
        def forward(self, x):
            assert x.dtype == torch.uint8
            return x.flatten(2)[:, :, 0].bfloat16()

    extractor = Extractor.of(Bytes(), name="mine")
    features = extract_features(images_of(4), extractor)
    assert features.dtype == torch.float32
    assert torch.equal(features, images_of(4)[:, :, 0, 0].float())


def test_training_the_network_afterwards_changes_neither_features_nor_network():
    network = Own()
    before = copy.deepcopy(network.state_dict())
    extractor = Extractor.of(network, name="mine", float_range=(0.0, 1.0))
    features = extract_features(images_of(4), extractor)
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name]), name
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        network.conv.weight += 1
    assert torch.equal(extract_features(images_of(4), extractor), features)


def test_the_digest_tells_weights_buffers_and_layers_apart():
    def digest(change=None, base=None):
        network = base or Own()
        if change:
            change(network)
        return Extractor.of(network, name="mine", float_range=(0.0, 1.0)).weights_sha256

    assert digest() == digest()
    others = [
        digest(base=Own(seed=1)),
        digest(lambda network: network.norm.running_mean.add_(1)),
        digest(lambda network: setattr(network.norm, "eps", 1e-3)),
    ]
    assert len({digest(), *others}) == 4


class Scaled(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * 3


def wrapped(network):
    return Extractor.of(network, name="mine", float_range=(0.0, 1.0))


def test_cached_features_of_an_edited_network_are_not_shared(tmp_path):
    images, helper, factor = images_of(5), Scaled(), [1.0]
    helper.forward = lambda x: x.mean((2, 3)) * factor[0]  # as attributes and code, in no digest
    found = []
    for factor[0] in (1.0, 2.0):
        found.append(extract(images, wrapped(helper), cache=tmp_path)["features"])
    torch.testing.assert_close(found[1], 2 * found[0])


def test_ranges_have_ids_of_their_own():
    ids = {
        Extractor.of(Own(), name="mine", float_range=each).preprocess_id
        for each in ((0.0, 1.0), (-1.0, 1.0))
    }
    assert ids == {"float32 from 0.0 to 1.0", "float32 from -1.0 to 1.0"}


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (lambda x: x, r"as rows \(2, d\) of floats; got float32 \(2, 3, 64, 64\)\. Pool or flat"),
        (lambda x: x.mean((1, 2, 3)), r"got float32 \(2,\)\. Pool or flatten"),
        (lambda x: x.flatten(1)[:1, :5], r"got float32 \(1, 5\)\."),
        (lambda x: {"a": x}, r"got a dict\."),
        (lambda x: x.flatten(1)[:, :4].long(), r"got int64 \(2, 4\)\."),
        (
            lambda x: x.flatten(1) @ torch.zeros(7, 5),
            r"of two 64x64 images; got RuntimeError: .*side=",
        ),
    ],
    ids=["map", "numbers", "rows", "dictionary", "integers", "size"],
)
def test_what_is_no_row_per_image_is_refused_at_once(forward, sentence):
    network = torch.nn.Identity()
    network.forward = forward
    with pytest.raises(UsageError, match=sentence):
        Extractor.of(network, name="mine", float_range=(0.0, 1.0))


def test_a_network_of_floats_without_a_range_is_told_of_it():
    with pytest.raises(UsageError, match=r"float_range=\(0\.0, 1\.0\)"):
        Extractor.of(Own(), name="mine")


def test_a_network_of_one_size_is_tried_on_it():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 9 * 9, 7))
    assert Extractor.of(network, name="mine", float_range=(0.0, 1.0), side=9).dim == 7


@pytest.mark.parametrize("float_range", [None, (0.0, 1.0)])
def test_a_network_may_rely_on_how_images_lie_in_memory(float_range):
    class Views(torch.nn.Module):
        def forward(self, x):
            return x.view(len(x), -1)[:, :5].float()

    extractor = Extractor.of(Views(), name="mine", float_range=float_range)
    images = images_of(4)
    files_way = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(extract_features(files_way, extractor), extract_features(images, extractor))


@pytest.mark.parametrize("name", ["inception", "efflite0", ""])
def test_names_of_other_networks_are_refused(name):
    with pytest.raises(UsageError, match="Expected a name of its own"):
        Extractor.of(Own(), name=name, float_range=(0.0, 1.0))


def test_a_network_that_cannot_be_copied_is_refused():
    network = Own()
    network.last = network.conv.weight.sum()  # with its graph
    with pytest.raises(UsageError, match=r"can be copied; got RuntimeError: .* Detach"):
        Extractor.of(network, name="mine", float_range=(0.0, 1.0))
