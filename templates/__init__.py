"""Pipelines, presets, class tables and layouts that ship with rsgen."""
