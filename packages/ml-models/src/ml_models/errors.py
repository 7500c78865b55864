"""The exceptions that ml_models raises for what a user can fix.

Each text names the field or file, the value, the rule and the fix; a command prints it and exits 1.
"""


class MlModelsError(Exception):
    """Anything wrong that the user can put right."""


class ConfigError(MlModelsError):
    """A model configuration that cannot be built."""


class LayoutError(ConfigError):
    """A model that cannot be divided as asked: TP, PP, EP or ETP does not fit its sizes."""


class WeightError(MlModelsError):
    """Weights that are missing, superfluous, truncated, of another shape or of another model."""


class RequirementError(MlModelsError):
    """A Python, torch or megatron-core that is missing, broken or of a version that cannot serve.

    The text ends in the pip command that helps.
    """


class PlatformError(MlModelsError):
    """A device platform that is not there, not known or not able to do what was asked."""
