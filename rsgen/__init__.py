"""rsgen: turn a small labelled remote-sensing set into a large, screened one."""

__version__ = "0.1.0"
__all__ = ["__version__"]
