"""Procedural road scenes: drawn once in shapes and labels, then coloured by domains that differ as renderers do.

`scene` composes a street, `appearance` renders it in the style of a domain, `objects` draws anomalous objects, and
`demo` writes samples and shards.
"""
