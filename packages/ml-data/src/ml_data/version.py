"""The version of the package, apart from `ml_data/__init__.py` so that any module may import it."""

__version__ = "1.0.0"
