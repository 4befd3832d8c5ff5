"""Engines that sample: one idea a file, all behind `ponder.core.Policy`."""
