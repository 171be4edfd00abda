"""Searching for an optimizer's best numbers, with the same means for every optimizer."""
