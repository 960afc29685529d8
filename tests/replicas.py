"""A module as ``nn.DataParallel`` leaves it on each of its devices."""

import copy


def replica_of(module):
    """Return a copy that computes with the same weights and lists no parameters."""
    replica = copy.deepcopy(module)
    for part in replica.modules():
        for name, weight in list(part._parameters.items()):
            del part._parameters[name]
            part.__dict__[name] = None if weight is None else weight.detach()
    assert not list(replica.parameters())
    return replica
