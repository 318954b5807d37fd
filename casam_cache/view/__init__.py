"""Prompts by mouse: a page on this machine alone, over stores, runs and folders of images."""
