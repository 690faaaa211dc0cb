"""What a user can get wrong, one class per part of the road; each message says where, what, both values, what to do."""


class MegatronFTError(Exception):
    """Base of every error that a user can cause; `cli.main` prints it without a traceback and exits with 2."""


class ConfigError(MegatronFTError):
    """A config field, an override, a layout or a command-line argument that cannot work."""


class DataError(MegatronFTError):
    """A record, a tokenizer, a dataset or a benchmark file that is not what it must be."""


class CheckpointError(MegatronFTError):
    """A checkpoint or Hugging Face folder that is missing, unfinished, damaged or of another model."""


class EvaluationError(MegatronFTError):
    """An evaluation that cannot give a true number: no sandbox, no toolchain, a runner that broke."""


class TrainingError(MegatronFTError):
    """A run that cannot go on, on any rank: ranks that do not meet, losses or gradients that are no numbers."""
