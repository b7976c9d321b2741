"""Procedural road scenes: drawn once in shapes and labels, then coloured by domains that differ as renderers do.

`scene` says what stands where, `appearance` how a domain sees it, `objects` what does not belong on a road, `demo`
turns them into samples and shards.
"""
