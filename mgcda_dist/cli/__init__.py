"""The command line `mgcda`: one file per command; the only room that prints or exits."""
