"""`init`: what a folder of labelled images holds, and a pipeline file to begin with."""

from __future__ import annotations

from rsgen.first_look.advice import Advice, advise
from rsgen.first_look.factory import factory_yaml
from rsgen.first_look.findings import Findings, Request, examine
from rsgen.first_look.text import describe

__all__ = ["Advice", "Findings", "Request", "advise", "describe", "examine", "factory_yaml"]
