"""Other methods of the field, each a loss, a score and a configuration; they come in by the door of a user's own code.

A configuration names them as `plugin:NAME` (the names are entry points, in pyproject.toml); those of an installed
package of others are found in the same way.
"""
