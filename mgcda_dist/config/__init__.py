"""Configuration: the schema, and loading it from YAML. Imports no torch."""
