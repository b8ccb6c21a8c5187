"""One strict, typed configuration: a YAML profile plus overrides, checked in full before anything runs.

Keys have a default where one value serves everywhere; `python -m tmcir_lite config` prints and explains the whole.
"""

from tmcir_lite.config.profiles import as_overrides, load_config, profile_names
from tmcir_lite.config.sections import (
    PROTOCOLS,
    WITHOUT_EFFECT,
    AtfSettings,
    BackboneSettings,
    CaptionJoin,
    Clip4CirSettings,
    Config,
    DataSettings,
    EditorSettings,
    EvaluationSet,
    GarmentsSettings,
    IacmaSettings,
    Layout,
    ProtocolName,
    QueryCaptions,
    RivalSettings,
    ScenesSettings,
    Section,
    TrainingSettings,
    explained,
)
from tmcir_lite.config.yaml_files import EDITORS, PROFILES, read_yaml

__all__ = [
    "EDITORS", "PROFILES", "PROTOCOLS", "WITHOUT_EFFECT", "AtfSettings", "BackboneSettings", "CaptionJoin",
    "Clip4CirSettings", "Config", "DataSettings", "EditorSettings", "EvaluationSet", "GarmentsSettings",
    "IacmaSettings", "Layout", "ProtocolName", "QueryCaptions", "RivalSettings",
    "ScenesSettings", "Section", "TrainingSettings", "as_overrides", "explained", "load_config",
    "profile_names", "read_yaml",
]  # fmt: skip
