"""Every flag of every command, once. The string beside a default is what `--help` says."""

from embervlm.settings.demo import DemoSettings, ToySettings
from embervlm.settings.evaluate import CompareSettings, EvaluateSettings, InferenceSettings, ReportSettings
from embervlm.settings.inspection import InspectSettings, VerifySettings
from embervlm.settings.loading import TeacherLoading
from embervlm.settings.teachers import (
    AnswerSettings,
    CacheImportSettings,
    CacheInfoSettings,
    CacheMergeSettings,
    CacheSettings,
    CacheVerifySettings,
    DownloadSettings,
    TeacherCheckSettings,
)
from embervlm.settings.train import DEFAULT_CONFIG, STAGE_DEFAULTS, TrainSettings, read_config

__all__ = [
    "AnswerSettings",
    "CacheImportSettings",
    "CacheInfoSettings",
    "CacheMergeSettings",
    "CacheSettings",
    "CacheVerifySettings",
    "CompareSettings",
    "DEFAULT_CONFIG",
    "DemoSettings",
    "DownloadSettings",
    "EvaluateSettings",
    "InferenceSettings",
    "InspectSettings",
    "ReportSettings",
    "STAGE_DEFAULTS",
    "TeacherCheckSettings",
    "TeacherLoading",
    "ToySettings",
    "TrainSettings",
    "VerifySettings",
    "read_config",
]
