"""Flows as hypothesis draws them: every option of the config, never one fixed size."""

from hypothesis import Phase, settings
from hypothesis import strategies as st

from tarflow_prior import TarFlowConfig

few = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.target),  # shrinking a flow takes minutes
)


def shapes(max_tokens=7):
    """Fields of a config; head_dim and width follow from ``heads``, see :func:`configured`."""
    return st.fixed_dictionaries(
        {
            "num_tokens": st.integers(2, max_tokens),
            "token_dim": st.integers(1, 4),
            "heads": st.sampled_from([(1, 4), (2, 4), (1, 8), (2, 8)]),
            "depths": st.lists(st.integers(1, 2), min_size=1, max_size=3),
            "num_classes": st.sampled_from([0, 1, 5]),
            "conditioning": st.sampled_from(["all", "last"]),
            "gate": st.sampled_from(["elementwise", "headwise", "none"]),
            "scale": st.sampled_from(["exp", "softplus"]),
            "log_scale_bound": st.sampled_from([None, 1.0, 4.0]),
            "max_positions": st.sampled_from([None, 16]),
            "mlp_ratio": st.sampled_from([1, 4]),
        }
    )


def configured(shape):
    # Not in the strategy: the type checker of this run draws random items of a config's tuple.
    num_heads, head_dim = shape["heads"]
    fields = {name: value for name, value in shape.items() if name != "heads"}
    fields["depths"] = tuple(fields["depths"])
    return TarFlowConfig(**fields, head_dim=head_dim, width=num_heads * head_dim)
