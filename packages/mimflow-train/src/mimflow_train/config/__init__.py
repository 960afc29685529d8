"""The complete configuration of a run, as nested frozen dataclasses; imports no torch."""

from mimflow_train.config.convolutional import ConvolutionalConfig
from mimflow_train.config.phases import (
    DecoderPhaseConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
)
from mimflow_train.config.run import OPERATIONAL, TEACHERS, DataConfig, ModelConfig, TrainConfig

__all__ = [
    "OPERATIONAL",
    "TEACHERS",
    "ConvolutionalConfig",
    "DataConfig",
    "DecoderPhaseConfig",
    "DiscriminatorConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
]
